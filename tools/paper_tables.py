#!/usr/bin/env python
"""The paper's tables beside what is built here.

    python tools/paper_tables.py                 # a readable table of every row
    python tools/paper_tables.py --table 2 --json
    python tools/paper_tables.py --markdown > MODEL_ZOO.md

Parameters and operations (fvcore, 800 x 1280) are counted on the model that a row's config builds. The
paper's figures are in configs/paper_tables.json. No dataset and no weights are needed.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from lors.complexity import operations, parameters
from lors.sharing import GeneratedLowRank, LowRank, share
from lors.sharing.recipe import Residual

CONFIGS = Path(__file__).parent.parent / "configs"
FIGURES = ("decoder_params_m", "params_m", "decoder_gflops", "gflops")


@functools.cache
def count_config(config: str) -> dict[str, float]:
    """The four figures of the model that configs/<config>.py builds."""
    with torch.device("meta"):
        model = instantiate(LazyConfig.load(str(CONFIGS / f"{config}.py")).model)
    # Weights of 0 count the same, without the time that drawing random ones takes.
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    decoder, total = operations(model)
    return dict(
        decoder_params_m=parameters(model.decoder) / 1e6,
        params_m=parameters(model) / 1e6,
        decoder_gflops=decoder / 1e9,
        gflops=total / 1e9,
    )


def count_table1(rank: int) -> dict[str, float]:
    """Millions of weights a layer, of six, at the sizes of Table 1; biases are not counted."""

    def per_layer(linear: Callable[[], nn.Linear], residual: Residual) -> tuple[float, float]:
        stack = nn.Module()
        stack.layers = nn.ModuleList(linear() for _ in range(6))
        dense = stack.layers[0].weight.numel()
        share(stack, "layers", residual)
        lors = sum(p.numel() for name, p in stack.named_parameters() if "bias" not in name)
        return lors / 6 / 1e6, dense / 1e6

    with torch.device("meta"):
        static = per_layer(lambda: nn.Linear(2 * 128 * 128, 256), LowRank(rank))
        adaptive = per_layer(lambda: nn.Linear(256, 64 * 128), GeneratedLowRank((1, 64, 128), rank, 2))
    figures = dict(zip(("static_lors", "static_dense", "adaptive_lors", "adaptive_dense"), static + adaptive))
    for kind in ("static", "adaptive"):
        figures[f"{kind}_percent"] = 100 * figures[f"{kind}_lors"] / figures[f"{kind}_dense"]
    return figures


def count(paper: dict[str, Any], wanted: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the wanted tables: {"table2": [{"row", "config", "paper", "ours"}]}."""
    rows = [(table, i, row) for table in wanted for i, row in enumerate(paper[table]["rows"])]
    counted: dict[str, list[dict[str, Any]]] = {table: [] for table in wanted}
    for table, i, row in tqdm(rows, unit="row", leave=False):
        config = row.get("config")
        ours = count_config(config) if config else count_table1(row["rank"])
        counted[table].append({"row": i, "config": config, "paper": row, "ours": ours})
    return counted


def as_text(counted: dict[str, list[dict[str, Any]]]) -> str:
    """For each figure that the paper prints: the paper's, ours and the ratio."""
    parts = []
    for table, rows in counted.items():
        lines = []
        for row in rows:
            for name, ours in row["ours"].items():
                if name in row["paper"]:
                    paper = row["paper"][name]
                    label = row["config"] or f"rank {row['paper']['rank']}"
                    lines.append((label, name, paper, f"{ours:.3f}", f"{ours / paper:.3f}"))
        parts.append(f"{table}\n" + tabulate(lines, ("row", "figure", "paper", "ours", "ours / paper")))
    return "\n\n".join(parts)


def as_markdown(paper: dict[str, Any], counted: dict[str, list[dict[str, Any]]]) -> str:
    """MODEL_ZOO.md."""
    parts = [MODEL_ZOO_HEAD]
    notes: list[str] = []
    for table, rows in counted.items():
        parts.append(f"## Table {table[5:]}: {paper[table]['what']}\n")
        if table == "table1":
            names = list(rows[0]["ours"])
            lines = [
                [r["paper"]["rank"], *(f"{r['paper'][n]} / {r['ours'][n]:.3f}" for n in names)] for r in rows
            ]
            parts.append(tabulate(lines, ["rank", *names], "github") + "\n")
            continue
        lines = []
        for row in rows:
            marks = ""
            for note in row["paper"].get("notes", ()):
                if note not in notes:
                    notes.append(note)
                marks += f"[^{notes.index(note) + 1}]"
            name = row["config"].rsplit("/")[-1]
            lines.append(
                [
                    f"[{name}](configs/{row['config']}.py){marks}",
                    *(f"{row['paper'].get(f, '-')} / {row['ours'][f]:.2f}" for f in FIGURES),
                    row["paper"]["ap"],
                    "not trained here",
                    f"`python train_net.py --config-file configs/{row['config']}.py --num-gpus 8`",
                ]
            )
        parts.append(tabulate(lines, MODEL_ZOO_COLUMNS, "github", disable_numparse=True) + "\n")
    parts.extend(f"[^{i}]: {note}" for i, note in enumerate(notes, start=1))
    return "\n".join(parts)


MODEL_ZOO_COLUMNS = (
    "config",
    "decoder parameters, M",
    "parameters, M",
    "decoder, G",
    "all, G",
    "AP in the paper",
    "checkpoint",
    "training",
)
MODEL_ZOO_HEAD = """# Model zoo

Every row of Tables 2 to 8 is a config; Table 1 is arithmetic. Figures are the paper's / ours; ours are
counted on the model that the config builds, with fvcore (a multiply-add is one operation) for an image of
800 x 1280. None of these models has been trained here: the AP is the paper's, and there is no checkpoint to
download yet.
Whoever trains one publishes it with `python tools/publish.py OUTPUT_DIR`: [how](docs/model_zoo.md).

Time and memory of a training step on an H200: [docs/gpu.md](docs/gpu.md). Small detectors that were trained
here, with several seeds: [docs/studies](docs/studies/README.md).

A batch is 16 images over 8 GPUs. With fewer, `--auto-scale` scales batch and learning rate together;
`--resume` goes on, `--eval-only train.init_checkpoint=FILE` evaluates. The backbones start from ImageNet
weights, Detectron2's of ResNet and the authors' of Swin-S, which are downloaded when first used.

Made by `python tools/paper_tables.py --markdown > MODEL_ZOO.md`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=int, choices=range(1, 9), help="this one alone")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    paper = json.loads((CONFIGS / "paper_tables.json").read_text())
    counted = count(paper, [f"table{args.table}"] if args.table else list(paper))
    if args.json:
        text = json.dumps(counted, indent=1)
    else:
        text = as_markdown(paper, counted) if args.markdown else as_text(counted)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
