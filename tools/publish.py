#!/usr/bin/env python
"""Puts a trained detector into a model zoo: a folder to serve, or to name in LORS_MODEL_ZOO.

    python tools/publish.py output/lors_digits --to zoo

What inference and fine-tuning need of OUTPUT_DIR's checkpoint, the weights (their moving average if there is
one) with classes and image size, becomes zoo/digits/lors_digits/model_final_1a2b3c4d.pth, whose name has the
first digits of its SHA-256. zoo/model_zoo.json gets an entry for the config, in place of an older one, and a
row of a table is printed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tabulate import tabulate

from lors import model_zoo
from lors.checkpoints import load_detector, read, write
from lors.errors import UserError
from lors.training.errors import one_line_errors
from lors.training.files import replacing

# Overrides that a trained model does not show.
_OF_TRAINING = ("model.criterion.", "model.decoder.activation_checkpointing=")


def training_of(folder: Path) -> tuple[str, list[str]]:
    """Name of the config of the last training in an output folder, and its overrides, as log.txt has them.

    Raises:
        UserError: log.txt has none, or the model was not the config's.
    """
    lines = re.findall(r"Command line arguments: (Namespace\(.*\))$", (folder / "log.txt").read_text(), re.M)
    calls = [ast.parse(line, mode="eval").body.keywords for line in lines]
    flags = [{word.arg: ast.literal_eval(word.value) for word in words} for words in calls]
    trainings = [given for given in flags if not given["eval_only"]]
    if not trainings:
        raise UserError(f"{folder}/log.txt: no training there")
    config, overrides = trainings[-1]["config_file"], trainings[-1]["opts"]
    others = [o for o in overrides if o.startswith("model.") and not o.startswith(_OF_TRAINING)]
    if others:
        raise UserError(f"{folder}: trained with {', '.join(others)}; a zoo's model must be its config's")
    name = config.replace(os.sep, "/").rpartition("configs/")[2].removesuffix(".py")
    return name, [o for o in overrides if "=/" not in o]  # what lies where is this machine's alone


def results_of(folder: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """AP of a checkpoint, and what its training took, each None where it is not known."""
    last = checkpoint["iteration"]
    lines = (folder / "metrics.json").read_text().splitlines()
    lines = [json.loads(line) for line in lines if line.endswith("}")]
    # An evaluation has the number of the iteration that follows.
    aps = [line["bbox/AP"] for line in lines if "bbox/AP" in line and line["iteration"] == last + 1]
    timed = [line for line in lines if "time" in line and line["iteration"] <= last]
    starts = [-1, *(line["iteration"] for line in timed)]
    steps = [line["iteration"] - before for line, before in zip(timed, starts)]
    memory = re.findall(r"max_mem: (\d+)M", (folder / "log.txt").read_text())
    return {
        "AP": round(aps[-1], 2) if aps else None,
        "iterations": last + 1,
        "seed": checkpoint.get("stream", {}).get("seed"),
        "seconds": round(sum(line["time"] * step for line, step in zip(timed, steps))) or None,
        "memory_mb": max(map(int, memory), default=None),
    }


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", type=Path)
    parser.add_argument("--checkpoint", default="model_final.pth", metavar="NAME", help="in OUTPUT_DIR")
    parser.add_argument("--to", default="output/model_zoo", type=Path, metavar="FOLDER")
    args = parser.parse_args(argv)
    config, overrides = training_of(args.output_dir)
    source = str(args.output_dir / args.checkpoint)
    cfg, model = load_detector(model_zoo.get_config_file(config), source, ["train.device=cpu"])
    entry = {"file": "", **results_of(args.output_dir, read(source)), "overrides": overrides}

    unnamed = args.to / config / "unnamed.pth"
    write(str(unnamed), {"model": model.state_dict(), "about": OmegaConf.to_container(cfg.about)})
    digest = hashlib.sha256(unnamed.read_bytes()).hexdigest()[:8]
    published = unnamed.with_name(f"{Path(source).stem}_{digest}.pth")
    os.replace(unnamed, published)
    entry["file"] = published.name
    there = (args.to / model_zoo.INDEX).exists()
    index = {**(model_zoo.read_index(str(args.to)) if there else {}), config: entry}
    with replacing(args.to / model_zoo.INDEX) as unfinished:
        unfinished.write_text(json.dumps(dict(sorted(index.items())), indent=1) + "\n")
    del entry["overrides"]
    row = {"config": f"[{config}](configs/{config}.py)", **entry}
    sys.stdout.write(tabulate([row], "keys", "github", disable_numparse=True) + "\n")


if __name__ == "__main__":
    main()
