#!/usr/bin/env python
"""The table and the picture of a study again, or of several in one, from docs/studies/NAME.json alone.

python tools/study_report.py sharing_digits
python tools/study_report.py all_digits all_bccd   # docs/studies/overview.md and .png
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate

from lors.training.errors import one_line_errors
from lors.training.files import replacing

DOCS = Path("docs/studies")


def collect(name: str, study: Mapping[str, Any], runs: Sequence[Any]) -> dict[str, Any]:
    """All that the report says, of the runs that are finished; see `study.Run`."""
    arms: dict[str, Any] = {}
    for run in runs:
        node, result = study["arms"][run.arm], run.result()
        about = dict(config=run.config, overrides=list(node.get("overrides", [])))
        about.update(decoder_parameters=run.parameters, iterations=run.iterations)
        about.update(start=node.get("start", ""), runs=[])
        if "val" in result:
            of_run = {"seed": run.seed, "fingerprint": run.fingerprint, **result}
            arms.setdefault(run.arm, about)["runs"].append(of_run)
    about = dict(study=name, title=study["title"], reference=study["reference"])
    return {**about, "overrides": list(study.get("overrides", [])), "arms": arms}


def write_report(results: Mapping[str, Any]) -> None:
    """Writes the JSON, the table and the picture."""
    name = results["study"]
    with replacing(DOCS / f"{name}.json") as path:
        path.write_text(json.dumps(results, indent=1) + "\n")
    with replacing(DOCS / f"{name}.md") as path:
        path.write_text(page(results))
    with replacing(DOCS / f"{name}.png") as path:
        draw([results], path)


def values(arm: Mapping[str, Any], part: str, metric: str = "AP") -> list[float]:
    return [run[part][metric] for run in arm["runs"] if part in run]


def plus_minus(number: float, spread: float, sign: str = "") -> str:
    return f"{number:{sign}.1f}" + ("" if math.isnan(spread) else f" ± {spread:.1f}")


def deviation(numbers: Sequence[float]) -> float:
    """Of one number it is not known."""
    return statistics.stdev(numbers) if len(numbers) > 1 else math.nan


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Of the means, and its standard error."""
    if not (ours and theirs):
        return ""
    error = math.hypot(*(deviation(numbers) / math.sqrt(len(numbers)) for numbers in (ours, theirs)))
    return plus_minus(statistics.mean(ours) - statistics.mean(theirs), error, "+")


def parts(results: Mapping[str, Any]) -> list[str]:
    """Those with any results, of val and test."""
    return [part for part in ("val", "test") if any(values(arm, part) for arm in results["arms"].values())]


def page(results: Mapping[str, Any]) -> str:
    arms, reference, rows = results["arms"], results["reference"], []
    for label, arm in arms.items():
        row = {
            "arm": label,
            "decoder parameters": f"{arm['decoder_parameters'] / 1e6:.2f} M",
            "n": len(arm["runs"]),
        }
        for part in parts(results):
            for metric in ("AP", "AP50"):
                numbers = values(arm, part, metric)
                row[f"{part} {metric}"] = (
                    plus_minus(statistics.mean(numbers), deviation(numbers)) if numbers else ""
                )
            against = values(arms[reference], part) if reference in arms and label != reference else []
            row[f"{part} AP against {reference}"] = difference(values(arm, part), against)
        seconds = [run["seconds"] for run in arm["runs"] if not run["resumed"]]
        row["minutes of a core"] = f"{statistics.mean(seconds) / 60:.1f}" if seconds else ""
        rows.append(row)
    runs = [
        f"`{' '.join([arm['config'], *arm['overrides']])}`, {arm['iterations']} iterations"
        + (f", from `{arm['start']}` with the same seed" if arm["start"] else "")
        for arm in arms.values()
    ]
    versions = dict.fromkeys(run["versions"] for arm in arms.values() for run in arm["runs"])
    text = f"""\
# {results["title"]}

`python tools/study.py {results["study"]}`; mean ± standard deviation over n seeds; differences of means ±
their standard error. {"; ".join(versions)}.

{tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)}

![AP against the decoder's parameters]({results["study"]}.png)

"""
    text += "".join(f"- {label}: {run}\n" for label, run in zip(arms, runs))
    if overrides := results["overrides"]:
        text += f"- all, where an arm names nothing else: `{' '.join(overrides)}`\n"
    return text


def overview(studies: Sequence[Mapping[str, Any]]) -> str:
    """A table of studies whose labels mean the same; parameters are those of the first that has an arm."""
    rows: dict[str, dict[str, str]] = {}
    for results in studies:
        part = parts(results)[-1]
        for label, arm in results["arms"].items():
            size = f"{arm['decoder_parameters'] / 1e6:.2f} M"
            row = rows.setdefault(label, {"decoder": label, "parameters": size})
            if numbers := values(arm, part):
                mean = plus_minus(statistics.mean(numbers), deviation(numbers))
                row[f"{results['study']}, {part} AP"] = mean
    return tabulate(list(rows.values()), headers="keys", tablefmt="github", disable_numparse=True)


def draw(studies: Sequence[Mapping[str, Any]], path: Path) -> None:
    """AP against decoder parameters, a panel for each study; on the test images where it has seen them."""
    columns = math.ceil(math.sqrt(len(studies)))
    rows = math.ceil(len(studies) / columns)
    figure = Figure(figsize=(3 + 5 * columns, 4.5 * rows), layout="constrained")
    labels = list(dict.fromkeys(label for results in studies for label in results["arms"]))
    drawn = {}
    for place, results in enumerate(studies, 1):
        axes, part = figure.add_subplot(rows, columns, place), parts(results)[-1]
        for label, arm in results["arms"].items():
            if numbers := values(arm, part):
                number, spread = labels.index(label), deviation(numbers)
                drawn[label] = axes.errorbar(
                    arm["decoder_parameters"] / 1e6,
                    statistics.mean(numbers),
                    None if math.isnan(spread) else spread,
                    fmt="os^vD<>phd8"[number % 11],  # one more than matplotlib has colours
                    fillstyle="none",  # Arms of one size with one AP lie on each other.
                    color=f"C{number}",
                    capsize=4,
                )
        axes.set(xlabel="parameters of the decoder, millions")
        axes.set(ylabel=f"{part} AP, mean and standard deviation")
        title = results["title"] if len(studies) == 1 else results["study"]
        axes.set_title(textwrap.fill(title, 60), fontsize=10)
        axes.margins(0.1)
        axes.grid(alpha=0.3)
    figure.legend(drawn.values(), drawn, loc="outside right upper")
    figure.savefig(path, dpi=120)


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", metavar="NAME", nargs="+", help="of docs/studies/NAME.json")
    studies = [json.loads((DOCS / f"{name}.json").read_text()) for name in parser.parse_args().studies]
    if len(studies) == 1:
        write_report(*studies)
    else:
        with replacing(DOCS / "overview.md") as path:
            path.write_text(overview(studies) + "\n")
        with replacing(DOCS / "overview.png") as path:
            draw(studies, path)


if __name__ == "__main__":
    main()
