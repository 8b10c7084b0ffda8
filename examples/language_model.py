"""LORS in a small GPT that reads the source of Python's standard library character by character.

    python examples/language_model.py        # some minutes on two cores; --quick takes seconds

Four models of the same depth: plain; tied, whose layers share all their matrices; LORS, whose layers have a
low-rank residual each beside what they share; and narrow, which is plain and has just enough channels for no
fewer parameters than LORS. It writes a table, the numbers behind it and a picture of bits per character
against parameters.

Whole modules are held out, some for validation and others for the test. Whatever was chosen, the learning
rates too (--tune measures them anew), was chosen on the validation modules; the table alone sees the test's.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import platform
import statistics
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from lors import LowRank, share

VOCABULARY = 128  # ASCII; whatever else there is reads as "?"
LEFT_OUT = {"encodings", "lib2to3", "pydoc_data", "site-packages", "dist-packages", "test"}
TESTS = {"test", "tests", "idle_test"}
RATES = (2e-3, 4e-3, 8e-3, 16e-3, 32e-3)  # what --tune tries for each arm
BEST_RATES = {"plain": 4e-3, "tied": 16e-3, "LORS": 16e-3, "narrow": 8e-3}  # what it found


@dataclass(frozen=True)
class Setup:
    """One training run."""

    arm: str
    rate: float
    seed: int = 0
    width: int = 64
    depth: int = 8
    heads: int = 4
    rank: int = 4
    context: int = 64
    batch: int = 8
    steps: int = 1500
    evaluated: int = 200_000  # characters
    part: str = "test"  # or "val"


class Block(nn.Module):
    """(B, T, C) -> (B, T, C): attention, then a network of two layers, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.fc2.weight)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class GPT(nn.Module):
    """Characters (B, T) -> logits (B, T, characters) of those that follow."""

    def __init__(self, width: int, depth: int, heads: int, context: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        # ALiBi (Press et al., ICLR 2022): the further back, the less attention. In runs as short as these
        # it takes far fewer steps than learned positions do.
        offset = torch.arange(context) - torch.arange(context)[:, None]
        slopes = 2.0 ** -torch.arange(heads)[:, None, None]
        self.register_buffer("bias", torch.where(offset > 0, -math.inf, slopes * offset), persistent=False)

    def forward(self, characters: Tensor) -> Tensor:
        x = self.embed(characters)
        for block in self.blocks:
            x = block(x, self.bias)
        return self.head(self.norm(x))


def build(setup: Setup) -> GPT:
    """The model of an arm."""
    torch.manual_seed(setup.seed)
    model = GPT(setup.width, setup.depth, setup.heads, setup.context)
    if setup.arm == "LORS":
        share(model, "blocks", LowRank(setup.rank))
    elif setup.arm == "tied":
        share(model, "blocks", LowRank(setup.rank, private=False))
    elif setup.arm == "narrow":
        enough = count(build(replace(setup, arm="LORS")))
        widths = range(setup.heads, setup.width + 1, setup.heads)
        models = (GPT(width, setup.depth, setup.heads, setup.context) for width in widths)
        model = next(model for model in models if count(model) >= enough)
    return model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@functools.cache
def read() -> dict[str, Tensor]:
    """The characters of the modules for training, for validation and for the test."""
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = [m for m in sorted(library.iterdir()) if m.stem.isidentifier() and m.name not in LEFT_OUT]
    files_of = ([m] if m.suffix == ".py" else sorted(m.rglob("*.py")) for m in modules)
    filled = [files for files in files_of if files]
    parts = {"train": bytearray(), "val": bytearray(), "test": bytearray()}
    for i, files in enumerate(filled):
        part = {8: "val", 9: "test"}.get(i % 10, "train")
        for file in (file for file in files if not TESTS & set(file.relative_to(library).parts)):
            parts[part] += file.read_text("utf-8", "replace").encode("ascii", "replace")
    return {part: torch.frombuffer(text, dtype=torch.uint8).long() for part, text in parts.items()}


def windows(text: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """What is read (B, T), and what follows each character of it (B, T)."""
    window = text[starts[:, None] + torch.arange(context + 1)]
    return window[:, :-1], window[:, 1:]


def train(setup: Setup, text: Tensor) -> Iterator[GPT]:
    """The model, after each step."""
    model = build(setup)
    named = dict(model.named_parameters())
    shared = [p for name, p in named.items() if name.endswith(".shared")]
    vectors = [p for p in named.values() if p.dim() <= 1]
    others = [p for name, p in named.items() if p.dim() > 1 and not name.endswith(".shared")]
    # What moves all N layers at once takes smaller steps. The narrow model's matrices gained nothing from it.
    groups = [
        {"params": shared, "lr": setup.rate / math.sqrt(setup.depth)},
        {"params": others},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, setup.rate, (0.9, 0.98), weight_decay=0.01, fused=True)
    # A tenth of the steps up, and from there down to 0.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * setup.steps), (1 - step / setup.steps) / 0.9)
    )
    order = torch.Generator().manual_seed(setup.seed)
    for _ in range(setup.steps):
        starts = torch.randint(len(text) - setup.context, (setup.batch,), generator=order)
        characters, following = windows(text, starts, setup.context)
        loss = F.cross_entropy(model(characters).flatten(0, 1), following.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield model


@torch.no_grad()
def bits_per_character(model: GPT, text: Tensor, setup: Setup) -> float:
    """Over stretches of the context's length, evenly spread, each read from its first character."""
    stretches = min(setup.evaluated, len(text) - 1) // setup.context
    starts = torch.linspace(0, len(text) - setup.context - 1, stretches, dtype=torch.float64).long()
    nats = 0.0
    for some in starts.split(64):
        characters, following = windows(text, some, setup.context)
        nats += F.cross_entropy(model(characters).flatten(0, 1), following.flatten(), reduction="sum").item()
    return nats / (stretches * setup.context * math.log(2))


def start_worker(steps_done: Synchronized) -> None:
    torch.set_num_threads(1)
    run.steps_done = steps_done


def run(setup: Setup) -> dict[str, float]:
    """Trains and evaluates one model, in a worker."""
    text = read()
    start = time.perf_counter()
    for model in train(setup, text["train"]):  # noqa: B007
        with run.steps_done.get_lock():
            run.steps_done.value += 1
    seconds = time.perf_counter() - start
    bits = bits_per_character(model, text[setup.part], setup)
    return {"parameters": count(model), "width": model.embed.embedding_dim, "bits": bits, "seconds": seconds}


def run_all(setups: Sequence[Setup], processes: int) -> list[dict[str, float]]:
    """Runs side by side, with a bar that says how much time is left."""
    context = multiprocessing.get_context("spawn")
    steps_done = context.Value("q", 0)
    with ProcessPoolExecutor(processes, context, start_worker, (steps_done,)) as pool:
        futures = [pool.submit(run, setup) for setup in setups]
        with tqdm(total=sum(setup.steps for setup in setups), unit=" steps", smoothing=0.02) as bar:
            running = set(futures)
            while running:
                running = wait(running, timeout=0.5).not_done
                bar.update(steps_done.value - bar.n)
        return [future.result() for future in futures]


def summarize(setups: Sequence[Setup], results: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """One row for each arm and learning rate, over the seeds."""
    runs: dict[tuple[str, float], list[dict[str, float]]] = {}
    for setup, result in zip(setups, results):
        runs.setdefault((setup.arm, setup.rate), []).append(result)
    rows = []
    for (arm, rate), each in runs.items():
        row = {"model": arm, "width": each[0]["width"], "parameters": each[0]["parameters"], "rate": rate}
        rows.append(row | {key: [run[key] for run in each] for key in ("bits", "seconds")})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    titles = ("model", "width", "parameters", "learning rate", "bits per character", "seconds")
    lines = [f"| {' | '.join(titles)} |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        bits, spread = statistics.mean(row["bits"]), (max(row["bits"]) - min(row["bits"])) / 2
        lines.append(
            f"| {row['model']} | {row['width']} | {row['parameters']:,} | {row['rate']:g} "
            f"| {bits:.3f} ± {spread:.3f} | {statistics.mean(row['seconds']):.0f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        bits, spread = statistics.mean(row["bits"]), (max(row["bits"]) - min(row["bits"])) / 2
        axes.errorbar(row["parameters"], bits, spread, marker="o", capsize=4)
        axes.annotate(row["model"], (row["parameters"], bits), (8, 4), textcoords="offset points")
    axes.set(xscale="log", xlabel="parameters", ylabel="bits per character of held-out modules")
    axes.margins(0.15)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/language_model"))
    parser.add_argument("--quick", action="store_true", help="a smoke test, whose numbers mean nothing")
    parser.add_argument("--tune", action="store_true", help="every learning rate, on the validation modules")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, one thread each")
    args = parser.parse_args()

    if args.tune:
        setups = [Setup(arm, r, part="val") for arm in BEST_RATES for r in RATES]
    else:
        setups = [Setup(arm, rate, seed) for arm, rate in BEST_RATES.items() for seed in (0, 1)]
    if args.quick:
        setups = [replace(setup, width=16, rank=1, steps=10, evaluated=2000) for setup in setups]

    start = time.perf_counter()
    rows = summarize(setups, run_all(setups, args.processes))
    minutes = (time.perf_counter() - start) / 60

    seeds = "one seed" if args.tune else "mean ± half the difference of two seeds"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    note = f"{setups[0].steps} steps; {setups[0].part} modules; {seeds}; {args.processes} at a time."
    text = f"{table(rows)}\n{note}\n{minutes:.1f} minutes in all; {versions}.\n"
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / ("tuning.md" if args.tune else "table.md")).write_text(text, encoding="utf-8")
    if not args.tune:
        (args.output / "results.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
        draw(rows, args.output / "picture.png")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
