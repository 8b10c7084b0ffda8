#!/usr/bin/env python
"""Is the detector right on this GPU, and how fast? One table at the end, every figure in a JSON.

    python tools/gpu.py                    # R-50, 800 x 1344; minutes, most of them for compiling
    python tools/gpu.py --quick            # a small image, few turns; also on a CPU
    python tools/gpu.py --json gpu.json

First whether it is right: decoder, losses and gradients against the method as the papers write it, in
float32; how far 16 bits are from that; two runs of a step; the merged detector; the compiled one. Then a
training step (forward, loss, backward) and inference of the four detectors of tools/variants.py: the median
time, images a second, the most memory that was allocated, how many kernels are launched, and how often the
host waits.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from lors.complexity import operations
from variants import MIB, VARIANTS, Case, build, machine, prepare, step

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def in_precision(forward: Callable[[], Any], device: torch.device, precision: str) -> Callable[[], Any]:
    """A forward pass under autocast, or as it is for float32."""

    def run() -> Any:
        kind = PRECISIONS[precision]
        with torch.autocast(device.type, kind, enabled=kind is not None):
            return forward()

    return run


def gradients(model: nn.Module, forward: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradient of each parameter of the decoder."""
    model.zero_grad()
    loss = forward()
    loss.backward()
    found = {name: p.grad.double() for name, p in model.decoder.named_parameters() if p.grad is not None}
    # The literal decoder holds the one it is made of.
    return loss.detach(), {name.removeprefix("decoder."): grad for name, grad in found.items()}


def compare(of: dict[str, Tensor], with_: dict[str, Tensor]) -> dict[str, float]:
    """Over all parameters: the relative difference and the cosine of two gradients."""
    one, other = (torch.cat([grads[name].flatten() for name in of]) for grads in (of, with_))
    return {
        "gradients, relative difference": ((one - other).norm() / other.norm()).item(),
        "gradients, cosine": torch.cosine_similarity(one, other, dim=0).item(),
    }


def check(models: dict[str, nn.Module], size: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """What is compared, and by how much it differs."""
    device = models["LORS"].device
    training, inference = (Case("decoder", mode, 100, 2) for mode in (True, False))
    losses = prepare(models, training, size)
    literal_loss, literal_gradients = gradients(models["literal"], losses["literal"])
    found: dict[str, dict[str, Any]] = {}
    kept: dict[str, dict[str, Tensor]] = {}
    for precision in PRECISIONS:
        loss, kept[precision] = gradients(models["LORS"], in_precision(losses["LORS"], device, precision))
        found[f"LORS in {precision} against literal in float32"] = {
            "loss, relative difference": (loss / literal_loss - 1).abs().item(),
            **compare(kept[precision], literal_gradients),
        }
    _, again = gradients(models["LORS"], losses["LORS"])
    same = all(torch.equal(again[name], gradient) for name, gradient in kept["float32"].items())
    found["two runs of a step"] = {"gradients equal bit for bit": same}
    with torch.no_grad():
        forwards = prepare(models, inference, size)
        exact = forwards["literal"]()
        for name, precision in (
            ("LORS", "float32"),
            ("merged", "float32"),
            ("LORS", "bfloat16"),
            ("LORS", "float16"),
        ):
            out = in_precision(forwards[name], device, precision)()
            for stage in (0, len(out) - 1):
                found[f"{name} in {precision} against literal in float32, stage {stage}"] = {
                    "logits, median and largest difference": spread(out[stage][0] - exact[stage][0]),
                    "boxes, the same in pixels": spread(out[stage][1] - exact[stage][1]),
                }
    for model in models.values():
        model.zero_grad()
    return found


def spread(difference: Tensor) -> list[float]:
    difference = difference.float().abs().flatten()
    return [difference.median().item(), difference.max().item()]


def compiled(model: nn.Module, mode: str | None = None) -> nn.Module:
    # Sizes that differ from an earlier detector's would be compiled as variable ones.
    torch.compiler.reset()
    twin = copy.deepcopy(model)
    twin.decoder.compile(fullgraph=True, mode=mode)
    return twin


def check_compiled(
    eager: nn.Module, twin: nn.Module, precision: str, size: tuple[int, int]
) -> dict[str, dict[str, Any]]:
    """A training step of a compiled detector against the same one eager."""
    forwards = prepare({"eager": eager, "compiled": twin}, Case("detector", True, 100, 2), size)
    loss, expected = gradients(eager, in_precision(forwards["eager"], eager.device, precision))
    start = time.perf_counter()
    compiled_loss, found = gradients(twin, in_precision(forwards["compiled"], eager.device, precision))
    return {
        f"compiled against eager in {precision}": {
            "loss, relative difference": (compiled_loss / loss - 1).abs().item(),
            **compare(found, expected),
            "seconds to compile": time.perf_counter() - start,
        }
    }


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def launches(run: Callable[[], None], device: torch.device) -> dict[str, int] | None:
    """Kernels, copies and fills on the device in one run, and how often the host waits for it."""
    if device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
        wait(device)
    events = profiled.events()
    on_device = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    waits = [event for event in events if event.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize")]
    # The profiler's own two are among them.
    return {"launches": len(on_device), "waits": len(waits)}


def measure(
    models: dict[str, nn.Module], case: Case, precision: str, size: tuple[int, int], turns: int
) -> list[dict[str, Any]]:
    """A record for each detector; they take turns."""
    device = next(iter(models.values())).device
    forwards = prepare(models, case, size)
    runs = {
        name: lambda name=name: step(
            models[name], in_precision(forwards[name], device, precision), case.training
        )
        for name in models
    }
    records = {}
    for name, run in runs.items():
        for _ in range(3):
            run()
        wait(device)
        records[name] = {"detector": name, "training": case.training, "batch": case.batch}
        records[name].update(precision=precision, **(launches(run, device) or {}))
        models[name].zero_grad()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            wait(device)
            records[name]["peak_mib"] = (torch.cuda.max_memory_allocated() - before) / MIB
            models[name].zero_grad()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _, (name, run) in itertools.product(range(turns), runs.items()):
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        times[name].append(time.perf_counter() - start)
    for name, model in models.items():
        model.zero_grad()
        records[name]["ms"] = 1000 * statistics.median(times[name])
        records[name]["images_per_second"] = 1000 * case.batch / records[name]["ms"]
    return list(records.values())


def rates(device: torch.device, quick: bool) -> dict[str, float]:
    """What the card does at best: products in bfloat16, and copies."""
    n = 1024 if quick else 8192
    a, b = torch.randn(2, n, n, device=device).bfloat16()
    copied = torch.empty(n * n * 4, device=device)

    def seconds(run: Callable[[], Any]) -> float:
        found = []
        for _ in range(5):
            wait(device)
            start = time.perf_counter()
            run()
            wait(device)
            found.append(time.perf_counter() - start)
        return statistics.median(found)

    return {
        "bfloat16 product, TFLOP/s": 2 * n**3 / seconds(lambda: a @ b) / 1e12,
        "copy, GB/s read and written": 2 * copied.nbytes / seconds(copied.clone) / 1e9,
    }


def as_text(report: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(shown(each) for each in value)
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    checks = [
        (what, name, shown(value)) for what, one in report["checks"].items() for name, value in one.items()
    ]
    times = []
    for record in report["times"]:
        what = "training step" if record["training"] else "inference"
        row = {"what": what, "batch": record["batch"], "precision": record["precision"]}
        row.update(detector=record["detector"], ms=f"{record['ms']:.1f}")
        row["images/s"] = f"{record['images_per_second']:.1f}"
        row["of product rate, %"] = f"{record.get('percent_of_product_rate', 0):.1f}"
        row["peak, MiB"] = f"{record.get('peak_mib', 0):.0f}"
        row.update({name: record.get(name, "") for name in ("launches", "waits")})
        times.append(row)
    return "\n\n".join(
        [
            ", ".join(f"{name} {shown(value)}" for name, value in report["machine"].items()),
            tabulate(checks, ("compared", "figure", "")),
            tabulate(times, "keys", disable_numparse=True),
        ]
    )


def write(report: dict[str, Any], path: str | None) -> None:
    if path:
        with open(path, "w") as file:
            json.dump(report, file, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small image, few turns, not compiled")
    parser.add_argument("--json", metavar="FILE", help="where every figure goes")
    args = parser.parse_args()
    if args.json:
        os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, turns = ((160, 256), 2) if args.quick else ((800, 1344), 12)
    torch.manual_seed(0)
    models = build(device)
    report: dict[str, Any] = {"machine": machine() | rates(device, args.quick), "image": size, "times": []}
    report["machine"]["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    report["checks"] = check(models, size)
    if not args.quick:  # compiling takes minutes
        for name, training, batch in (("LORS", True, 2), ("plain", True, 2), ("merged", False, 8)):
            twin = compiled(models[name], None if training else "reduce-overhead")
            if name == "LORS":
                report["checks"].update(check_compiled(models[name], twin, "bfloat16", size))
            case, one = Case("detector", training, 100, batch), {f"{name}, compiled": twin}
            report["times"].extend(measure(one, case, "bfloat16", size, turns))
            write(report, args.json)
    # On a CPU, float16 takes minutes.
    precisions = [name for name in PRECISIONS if device.type == "cuda" or name != "float16"]
    chosen = list(itertools.product((True, False), (1,) if args.quick else (8, 2, 1), precisions))
    for training, batch, precision in tqdm(chosen, desc="cases"):
        # In training the merged detector is the plain one, and the literal one takes the memory of several.
        names = [name for name in VARIANTS if not training or name != "merged"]
        some = {name: models[name] for name in names if name != "literal" or batch <= 2 or not training}
        case = Case("detector", training, 100, batch)
        report["times"].extend(measure(some, case, precision, size, turns))
        write(report, args.json)
    best = report["machine"]["bfloat16 product, TFLOP/s"]
    counted = {name: operations(models[name], *size)[1] for name in models if name != "literal"}
    for record in report["times"]:
        name = record["detector"].partition(",")[0]
        if name != "literal":
            # Of a multiply-add, and of a training step, whose backward pass takes twice the forward pass's
            factor = 2 * (3 if record["training"] else 1) * record["batch"]
            record["percent_of_product_rate"] = 100 * factor * counted[name] / record["ms"] / 1e9 / best
    write(report, args.json)
    sys.stdout.write(as_text(report) + "\n")


if __name__ == "__main__":
    main()
