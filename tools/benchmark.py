#!/usr/bin/env python
"""Time and memory of the LORS detector beside the method as the papers write it, all in one run.

    python tools/benchmark.py            # images of 800 x 1344; about 25 minutes on two cores
    python tools/benchmark.py --quick    # a small image, few turns: under a minute

The four detectors of tools/variants.py: R-50, 2 groups of 128 channels, points 64 -> 128. And, as a stack of
layers of another kind, nn.TransformerEncoder with 6 layers of width 512 at 4 x 256 tokens, plain and sharing
with rank 8.

They take turns, each turn in an order drawn anew, so that none always finds the memory as another one left
it. A time is the median over the turns, a ratio the median of the ratios within a turn. A training step is
forward, loss and backward, without the optimiser. "keeps" is the memory that the forward pass of a training
step leaves for its backward pass: each storage once, parameters left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

import lors
from variants import MIB, VARIANTS, Case, build, machine, prepare, step

RATIOS = (("literal", "LORS"), ("literal", "merged"), ("LORS", "plain"), ("merged", "plain"))


@dataclass(frozen=True)
class Effort:
    """How long a case is measured: `most` turns, or fewer once `seconds` are over, but `least`."""

    least: int
    most: int
    seconds: float


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Memory that a forward pass leaves for its backward pass."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself, the output of a node would hold that node for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(size for address, size in kept.items() if address not in parameters)


def take_turns(
    runs: dict[str, Callable[[], None]], ratios: Sequence[tuple[str, str]], effort: Effort
) -> dict[str, Any]:
    """Medians of the seconds that each takes, and of the ratios within a turn."""
    turns: list[dict[str, float]] = []
    order, begin = random.Random(0), time.perf_counter()
    while len(turns) < effort.least or (
        len(turns) < effort.most and time.perf_counter() - begin < effort.seconds
    ):
        turn = {}
        for name in order.sample(list(runs), len(runs)):
            start = time.perf_counter()
            runs[name]()
            turn[name] = time.perf_counter() - start
        turns.append(turn)
    return {
        "turns": len(turns),
        "seconds": {name: statistics.median(turn[name] for turn in turns) for name in runs},
        "ratios": {f"{a} / {b}": statistics.median(turn[a] / turn[b] for turn in turns) for a, b in ratios},
    }


def measure(
    models: dict[str, nn.Module], case: Case, size: tuple[int, int], effort: Effort
) -> dict[str, Any]:
    """A case's record for --json."""
    forwards = prepare(models, case, size)
    runs = {name: lambda name=name: step(models[name], forwards[name], case.training) for name in VARIANTS}
    kept = {}
    for name, run in runs.items():
        run()  # the warm-up
        models[name].zero_grad()
        if case.training:
            kept[name] = kept_bytes(models[name], forwards[name])
    times = take_turns(runs, RATIOS, effort)
    for model in models.values():
        model.zero_grad()
    return {**asdict(case), **times, **({"kept_bytes": kept} if kept else {})}


def measure_encoder(effort: Effort, width: int, tokens: int) -> dict[str, Any]:
    """A training step of nn.TransformerEncoder, plain and shared."""
    models = {}
    for name in ("plain", "shared"):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True)
        models[name] = nn.ModuleDict({"encoder": nn.TransformerEncoder(layer, 6)})
    lors.share(models["shared"]["encoder"], "layers", lors.LowRank(rank=8))
    x = torch.randn(4, tokens, width)

    def run(model: nn.Module) -> None:
        model.zero_grad()
        model["encoder"](x).square().mean().backward()

    runs = {name: lambda model=model: run(model) for name, model in models.items()}
    for each in runs.values():
        each()
    parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    return {
        "width": width,
        "tokens": [4, tokens],
        "parameters": parameters,
        **take_turns(runs, [("shared", "plain")], effort),
    }


def cases(quick: bool) -> list[Case]:
    sizes = [(100, 1)] if quick else [(100, 1), (100, 2), (300, 1)]
    return [
        Case(part, training, queries, batch)
        for part, training in itertools.product(("decoder", "detector"), (False, True))
        for queries, batch in sizes
    ]


def as_text(report: dict[str, Any]) -> str:
    texts = [", ".join(f"{name} {value}" for name, value in report["machine"].items())]
    for part, training in itertools.product(("decoder", "detector"), (False, True)):
        rows = []
        for record in report["cases"]:
            if (record["part"], record["training"]) == (part, training):
                row = {"queries": record["queries"], "batch": record["batch"]}
                row.update({f"{name}, ms": f"{1000 * t:.1f}" for name, t in record["seconds"].items()})
                row.update({ratio: f"{value:.2f}" for ratio, value in record["ratios"].items()})
                kept = record.get("kept_bytes", {})
                row.update({f"{name} keeps, MiB": f"{size / MIB:.0f}" for name, size in kept.items()})
                rows.append({**row, "turns": record["turns"]})
        if rows:
            what = "training step" if training else "inference"
            texts.append(f"{part}, {what}\n" + tabulate(rows, "keys", disable_numparse=True))
    if encoder := report.get("encoder"):
        plain, shared = (f"{1000 * encoder['seconds'][name]:.1f} ms" for name in ("plain", "shared"))
        texts.append(
            f"nn.TransformerEncoder, training step: plain {plain}, shared {shared}, "
            f"shared / plain {encoder['ratios']['shared / plain']:.2f}, {encoder['turns']} turns"
        )
    return "\n\n".join(texts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small image and few turns: does it all work?")
    parser.add_argument("--part", choices=("decoder", "detector", "encoder"), help="only that (default: all)")
    parser.add_argument("--json", action="store_true", help="every figure as JSON")
    args = parser.parse_args(argv)
    size = (160, 256) if args.quick else (800, 1344)
    effort = Effort(1, 3, 2.0) if args.quick else Effort(7, 30, 10.0)
    torch.manual_seed(0)
    report: dict[str, Any] = {"machine": machine(), "image": size, "cases": []}
    if args.part in (None, "encoder"):
        report["encoder"] = measure_encoder(effort, *((64, 16) if args.quick else (512, 256)))
    chosen = [case for case in cases(args.quick) if args.part in (None, case.part)]
    models = build(torch.device("cpu")) if chosen else {}
    for case in (progress := tqdm(chosen, desc="cases")):
        report["cases"].append(measure(models, case, size, effort))
        # On stderr, so that a run that ends early leaves what it has measured.
        progress.write(json.dumps(report["cases"][-1]), file=sys.stderr)
    sys.stdout.write((json.dumps(report, indent=2) if args.json else as_text(report)) + "\n")


if __name__ == "__main__":
    main()
