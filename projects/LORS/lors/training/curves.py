"""A picture of a training."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from lors.training.files import replacing


def draw_training(folder: str) -> None:
    """Draws `training.png` from a folder's metrics.json: each stage's loss, AP, and the learning rate."""
    panels: dict[str, dict] = {"loss": {}, "AP": {}, "learning rate": {}}
    for line in (Path(folder) / "metrics.json").read_text().splitlines():
        record, stages = json.loads(line), defaultdict(float)
        for name, value in record.items():
            if name.startswith("loss_"):
                stages[f"stage {name.rpartition('_')[2]}"] += value
        of_panels = {
            "loss": stages,
            "AP": {name: record[name] for name in record if name.endswith(("/AP", "/AP50"))},
            "learning rate": {"lr": record["lr"]} if "lr" in record else {},
        }
        for panel, values in of_panels.items():
            for name, value in values.items():
                panels[panel].setdefault(name, []).append((record["iteration"], value))
    figure = Figure(figsize=(8, 9))
    figure.subplots_adjust(left=0.15, bottom=0.07, right=0.97, top=0.97)  # "constrained" is slow
    for axes, (title, curves) in zip(figure.subplots(len(panels), sharex=True), panels.items()):
        for name, points in curves.items():
            axes.plot(*zip(*points), label=name, marker="o" if len(points) < 50 else None, markersize=3)
        axes.set(ylabel=title, yscale="log" if title == "loss" and curves else "linear")
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize=8)
    axes.set_xlabel("iteration")
    with replacing(Path(folder) / "training.png") as path:
        figure.savefig(path, dpi=80)
