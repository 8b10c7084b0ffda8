#!/usr/bin/env python
"""Time and memory of the LORS detector beside the method as the papers write it, all in one run.

    python tools/benchmark.py            # images of 800 x 1344; half an hour on two cores
    python tools/benchmark.py --quick    # a small image, few turns: under a minute
    python tools/benchmark.py --json > benchmark.json

Four detectors (R-50), all with 2 groups of 128 channels and points 64 -> 128:

    literal   Figures 2 and 3 of LORS as written: each private weight of each query stored, concatenated with
              the shared one and summed; a grid_sample for each level; a matching for each stage
    LORS      configs/lors_r50_1x.py as it is, with the same weights
    merged    the same after lors.merge
    plain     AdaMixer's bank of the same shape

They take turns, each turn in an order drawn anew, so that none always finds the memory as the literal one
left it. A time is the median over the turns, a ratio the median of the ratios within a turn. A training step
is forward, loss and backward, without the optimiser. "kept" is the memory that the forward pass of a training
step leaves for its backward pass: each storage once, parameters left out. On a GPU there is also "peak", the
most memory allocated in a step above what was before it, gradients included.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

import lors
from lors.adamixer import Queries
from lors.adamixer.mixing import adaptive_mixing
from lors.adamixer.sampling import Pyramid, sample_points
from lors.complexity import operations, parameters
from lors.criterion import set_loss

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from oracle import literal_decoder  # noqa: E402

VARIANTS = ("literal", "LORS", "merged", "plain")
RATIOS = (("literal", "LORS"), ("literal", "merged"), ("LORS", "plain"), ("merged", "plain"))
MIB = 2**20


@dataclass(frozen=True)
class Case:
    part: str  # "decoder" or "detector"
    training: bool
    queries: int
    batch: int
    bfloat16: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Effort:
    """How long a case is measured: `most` turns, or fewer once `seconds` are over, but `least`."""

    least: int
    most: int
    seconds: float


class LiteralDecoder(nn.Module):
    """A decoder's weights, computed with as the papers write it."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.strides, self.num_classes = decoder, decoder.strides, decoder.num_classes

    def forward(self, *given: Any) -> list[tuple[Tensor, Tensor]]:
        return literal_decoder(self.decoder, *given)


def loss_of_each_stage(predictions: Sequence[tuple[Tensor, Tensor]], *truth: Any) -> dict[str, Tensor]:
    """`set_loss` with a matching for each stage, as published."""
    losses = [set_loss([stage], *truth) for stage in predictions]
    return {f"{name}_{i}": value for i, loss in enumerate(losses) for name, value in loss.items()}


def build(device: torch.device) -> dict[str, nn.Module]:
    """The four detectors; random weights leave nothing at 0, so that boxes move and points spread."""
    lors_config, plain_config = (
        LazyConfig.load(str(ROOT / "configs" / f"{name}_r50_1x.py")).model
        for name in ("lors", "adamixer_2x64")
    )
    models = {"LORS": instantiate(lors_config), "plain": instantiate(plain_config)}
    for model in models.values():
        for parameter in model.decoder.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3 * parameter.shape[-1] ** -0.5)
    return {name: model.to(device) for name, model in with_twins(models).items()}


def with_twins(models: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """LORS and plain, and what has LORS's weights: the merged and the literal one."""
    models["merged"] = lors.merge(models["LORS"])
    decoder = models["LORS"].decoder
    models["literal"] = copy.deepcopy(models["LORS"], {id(decoder): LiteralDecoder(copy.deepcopy(decoder))})
    # As published, and what grid_sample is fast with.
    models["literal"].memory_format = torch.contiguous_format
    return {name: models[name] for name in VARIANTS}


def random_images(batch: int, size: tuple[int, int], num_classes: int) -> list[dict[str, Any]]:
    """Detectron2's dataset dicts of noise, with 10 boxes each."""
    h, w = size
    images = []
    for _ in range(batch):
        low, side = torch.rand(2, 10, 2) * 0.5
        boxes = torch.cat((low, low + side + 0.01), dim=1) * torch.tensor([w, h, w, h])
        truth = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.randint(num_classes, (10,)))
        image = torch.randint(0, 256, (3, h, w), dtype=torch.uint8)
        images.append({"image": image, "instances": truth})
    return images


def decoder_inputs(case: Case, size: tuple[int, int], decoder: nn.Module) -> tuple[Any, ...]:
    """Features, content and boxes as they are between two stages: of all sizes, anywhere in the image."""
    h, w = size
    bank, shape = decoder.bank, (case.batch, case.queries)
    channels = bank.groups * bank.channels
    features = [torch.randn(case.batch, channels, -(-h // s), -(-w // s)) for s in decoder.strides]
    xy = torch.rand(*shape, 2) * torch.tensor([w, h])
    zr = torch.rand(*shape, 2) * torch.tensor([5.0, 2.0]) + torch.tensor([3.0, -1.0])
    return features, torch.randn(*shape, bank.query_dim), torch.cat((xy, zr), dim=-1)


def as_from_neck(model: nn.Module, features: Sequence[Tensor]) -> list[Tensor]:
    """Levels of a model's own, where and as its neck gives them."""
    return [level.to(model.device, memory_format=model.memory_format, copy=True) for level in features]


def prepare(models: dict[str, nn.Module], case: Case, size: tuple[int, int]) -> dict[str, Callable[[], Any]]:
    """For each variant its forward pass: the predictions or, in training, the loss."""
    torch.manual_seed(0)
    device, decoder = models["LORS"].device, models["LORS"].decoder
    images = random_images(case.batch, size, decoder.num_classes)
    features, content, xyzr = decoder_inputs(case, size, decoder)
    content, xyzr = content.to(device).requires_grad_(case.training), xyzr.to(device)
    truth = [image["instances"].to(device) for image in images]
    targets = [(one.gt_classes, one.gt_boxes.tensor) for one in truth]

    def forward_of(name: str, model: nn.Module) -> Callable[[], Any]:
        model.train(case.training)
        model.queries = Queries(case.queries, decoder.bank.query_dim).to(device)
        loss = loss_of_each_stage if name == "literal" else set_loss
        decode = torch.compile(model.decoder, dynamic=False) if case.compiled else model.decoder
        levels = as_from_neck(model, features)
        for level in levels:
            level.requires_grad_(case.training)

        def forward() -> Any:
            for tensor in (*levels, content):
                tensor.grad = None
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=case.bfloat16)
            with torch.set_grad_enabled(case.training), autocast:
                if case.part == "detector":
                    with mock.patch("lors.detector.set_loss", loss):
                        out = model(images)
                else:
                    out = decode(levels, content, xyzr)
                    if case.training:
                        out = loss(out, targets, [size] * case.batch)
            return sum(out.values()) if case.training else out

        return forward

    return {name: forward_of(name, model) for name, model in models.items()}


def step(model: nn.Module, forward: Callable[[], Any], training: bool) -> None:
    if training:
        model.zero_grad()
        forward().backward()
    else:
        forward()


def seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


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


def peak_bytes(run: Callable[[], None]) -> int:
    """On a GPU, the most memory that a step allocates above what there was before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(
    models: dict[str, nn.Module], case: Case, size: tuple[int, int], effort: Effort
) -> dict[str, Any]:
    """A case's record for --json."""
    device = models["LORS"].device
    forwards = prepare(models, case, size)
    runs = {name: lambda name=name: step(models[name], forwards[name], case.training) for name in VARIANTS}
    memory = {}
    for name, run in runs.items():
        # The first call is the warm-up; cuDNN, allocators and the compiler may need more on a GPU.
        for _ in range(3 if device.type == "cuda" else 1):
            run()
        models[name].zero_grad()
        if case.training:
            memory[name] = {}
            if not case.compiled:
                memory[name]["kept"] = kept_bytes(models[name], forwards[name])
            if device.type == "cuda":
                memory[name]["peak"] = peak_bytes(run)
                models[name].zero_grad()
    turns: list[dict[str, float]] = []
    order = random.Random(0)
    start = time.perf_counter()
    while len(turns) < effort.least or (
        len(turns) < effort.most and time.perf_counter() - start < effort.seconds
    ):
        turns.append({name: seconds(runs[name], device) for name in order.sample(VARIANTS, len(VARIANTS))})
    for model in models.values():
        model.zero_grad()
    return {
        **asdict(case),
        "turns": len(turns),
        "seconds": {name: statistics.median(turn[name] for turn in turns) for name in VARIANTS},
        "ratios": {f"{a} / {b}": statistics.median(turn[a] / turn[b] for turn in turns) for a, b in RATIOS},
        **({"memory_bytes": memory} if memory else {}),
    }


def cases(quick: bool, cuda: bool) -> list[Case]:
    queries, batches = ((100,), (1,)) if quick else ((100, 300), (1, 2))
    chosen = []
    for part, training in itertools.product(("decoder", "detector"), (False, True)):
        for bfloat16 in (False, True) if cuda else (False,):
            for number, batch in itertools.product(queries, (*batches, 8) if cuda else batches):
                if training and number * batch > 300 and not cuda:
                    continue  # the literal side would need more than 24 GB
                chosen.append(Case(part, training, number, batch, bfloat16))
        if part == "decoder":
            # How time grows: 100, 300, 900.
            if not training:
                chosen.extend(Case(part, False, number, 1) for number in (300, 900) if number not in queries)
            if cuda:
                chosen.extend(Case(part, training, 100, batch, True, True) for batch in (1, 8))
    return chosen


@torch.no_grad()
def parts(model: nn.Module, size: tuple[int, int], turns: int) -> dict[str, float]:
    """Seconds of each part of a stage in inference, 100 queries, batch 1: medians, their mean over stages."""
    torch.manual_seed(0)
    decoder, device = model.decoder.eval(), model.device
    case = Case("decoder", False, 100, 1)
    features, content, xyzr = decoder_inputs(case, size, decoder)
    features, content, xyzr = as_from_neck(model, features), content.to(device), xyzr.to(device)
    bank = decoder.bank
    table = partial(Pyramid, features, decoder.strides, bank.groups)
    found = {"table of the levels, once for all stages": median_seconds(table, device, turns)}
    pyramid = table()
    for i, stage in enumerate(decoder.stages):
        points = sample_points(stage.offsets(content), xyzr, stage.groups)
        sampled = pyramid.sample(points)
        weights = bank.channel(content, i), bank.spatial(content, i)
        mixed = adaptive_mixing(sampled, *weights)
        runs = {
            "attention": lambda stage=stage: stage._attend(content, xyzr),
            "sampling": lambda points=points: pyramid.sample(points),
            "weights": lambda i=i: (bank.channel(content, i), bank.spatial(content, i)),
            "mixing": lambda sampled=sampled, weights=weights: adaptive_mixing(sampled, *weights),
            "output": lambda mixed=mixed, i=i: bank.output(mixed, i),
            "FFN": lambda stage=stage: stage.ffn(content),
            "heads": lambda stage=stage: (stage.classify(content), stage.regress(content)),
        }
        for name, run in runs.items():
            found[name] = found.get(name, 0) + median_seconds(run, device, turns) / len(decoder.stages)
    return found


def median_seconds(run: Callable[[], Any], device: torch.device, turns: int) -> float:
    run()
    return statistics.median(seconds(run, device) for _ in range(turns))


def matmul_rate(device: torch.device) -> float:
    """Multiply-adds a second of a large product in float32."""
    n = 1024 if device.type == "cpu" else 8192
    a, b = torch.randn(2, n, n, device=device)
    return n**3 / median_seconds(lambda: a @ b, device, 5)


def counts(models: dict[str, nn.Module], size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Parameters, and operations for one image with the queries of the config."""
    found = {}
    for name in ("LORS", "merged"):
        decoder, whole = operations(models[name], *size)
        sizes = parameters(models[name].decoder), parameters(models[name])
        found[name] = dict(zip(("decoder_parameters", "parameters"), sizes), decoder=decoder, detector=whole)
    return found


def machine(device: torch.device) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def as_text(report: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{one['decoder_parameters'] / 1e6:.1f} M of {one['parameters'] / 1e6:.1f} M",
            f"{one['decoder'] / 1e9:.2f} G of {one['detector'] / 1e9:.2f} G",
        )
        for name, one in report["counts"].items()
    ]
    texts = [
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        tabulate(rows, ("", "decoder's parameters", "decoder's operations"), disable_numparse=True),
    ]
    names = list(report["parts"]["LORS"])
    rows = [
        [name, *(f"{1000 * report['parts'][variant][name]:.2f}" for variant in report["parts"])]
        for name in names
    ]
    texts.append("parts of a stage in inference, ms\n" + tabulate(rows, ("", *report["parts"])))
    for part, training in itertools.product(("decoder", "detector"), (False, True)):
        records = [r for r in report["cases"] if (r["part"], r["training"]) == (part, training)]
        if not records:
            continue
        rows = []
        for record in records:
            row = {"queries": record["queries"], "batch": record["batch"]}
            row["precision"] = "bfloat16" if record["bfloat16"] else "float32"
            if record["compiled"]:
                row["precision"] += ", compiled"
            row.update({f"{name}, ms": f"{1000 * t:.1f}" for name, t in record["seconds"].items()})
            row.update({ratio: f"{value:.2f}" for ratio, value in record["ratios"].items()})
            row["turns"] = record["turns"]
            rows.append(row)
        what = "training step" if training else "inference"
        texts.append(f"{part}, {what}\n" + tabulate(rows, "keys", disable_numparse=True))
    return "\n\n".join(texts)


def memory_as_text(report: dict[str, Any]) -> str:
    rows = []
    for record in report["cases"]:
        for kind in ("kept", "peak"):
            sizes = {name: memory.get(kind) for name, memory in record.get("memory_bytes", {}).items()}
            if all(sizes.values()) and sizes:
                row = {key: record[key] for key in ("part", "queries", "batch")} | {"memory": kind}
                row.update({f"{name}, MiB": f"{size / MIB:.1f}" for name, size in sizes.items()})
                row["literal / LORS"] = f"{sizes['literal'] / sizes['LORS']:.2f}"
                rows.append(row)
    return "training step, memory\n" + tabulate(rows, "keys", disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small image and few turns: does it all work?")
    parser.add_argument("--part", choices=("decoder", "detector"), help="only that (default: both)")
    parser.add_argument("--json", action="store_true", help="every figure as JSON")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = (160, 256) if args.quick else (800, 1344)
    effort = Effort(1, 3, 2.0) if args.quick else Effort(7, 30, 10.0)
    torch.manual_seed(0)
    models = build(device)
    counted = counts(models, size)
    chosen = [c for c in cases(args.quick, device.type == "cuda") if args.part in (None, c.part)]
    of_a_stage = {name: parts(models[name], size, effort.most) for name in ("LORS", "merged")}
    records = []
    for case in (progress := tqdm(chosen, desc="cases")):
        records.append(measure(models, case, size, effort))
        # On stderr, so that a run that ends early leaves what it has measured.
        progress.write(json.dumps(records[-1]), file=sys.stderr)
    known = machine(device) | {"G multiply-adds a second": round(matmul_rate(device) / 1e9, 1)}
    report = {
        "machine": known,
        "image": size,
        "counts": counted,
        "parts": of_a_stage,
        "cases": records,
    }
    text = json.dumps(report, indent=2) if args.json else f"{as_text(report)}\n\n{memory_as_text(report)}"
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
