"""The four detectors that the benchmarks compare, with their inputs.

literal   Figures 2 and 3 of LORS as written: each private weight of each query stored, concatenated with
          the shared one and summed; a grid_sample for each level; a matching for each stage
LORS      configs/lors_r50_1x.py as it is, with the same weights
merged    the same after lors.merge
plain     AdaMixer of the same shape
"""

from __future__ import annotations

import copy
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

import lors
from lors.adamixer import Queries

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from oracle import literal_decoder  # noqa: E402

VARIANTS = ("literal", "LORS", "merged", "plain")
MIB = 2**20


@dataclass(frozen=True)
class Case:
    part: str  # "decoder" or "detector"
    training: bool
    queries: int
    batch: int


class LiteralDecoder(nn.Module):
    """A decoder's weights, computed with as the papers write it."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.strides, self.num_classes = decoder, decoder.strides, decoder.num_classes

    def forward(self, *given: Any) -> list[tuple[Tensor, Tensor]]:
        return literal_decoder(self.decoder, *given)


class EachStage(nn.Module):
    """A criterion with a matching for each stage, as published."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, predictions: Sequence[tuple[Tensor, Tensor]], *truth: Any) -> dict[str, Tensor]:
        losses = [self.criterion([stage], *truth) for stage in predictions]
        return {f"{name}_{i}": value for i, loss in enumerate(losses) for name, value in loss.items()}


def build(device: torch.device) -> dict[str, nn.Module]:
    """The four detectors; random weights leave nothing at 0, so that boxes move and points spread."""
    models = {
        name: instantiate(LazyConfig.load(str(ROOT / "configs" / f"{config}_r50_1x.py")).model)
        for name, config in (("LORS", "lors"), ("plain", "adamixer_2x64"))
    }
    for model in models.values():
        for parameter in model.decoder.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3 * parameter.shape[-1] ** -0.5)
    return {name: model.to(device) for name, model in with_twins(models).items()}


def with_twins(models: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """LORS and plain, and what has LORS's weights: the merged and the literal one."""
    models["merged"] = lors.merge(models["LORS"])
    models["literal"] = literal = copy.deepcopy(models["LORS"])
    literal.decoder, literal.criterion = LiteralDecoder(literal.decoder), EachStage(literal.criterion)
    # As published, and what grid_sample is fast with.
    literal.memory_format = torch.contiguous_format
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


def decoder_inputs(case: Case, size: tuple[int, int], model: nn.Module) -> tuple[Any, ...]:
    """Features, content and boxes as they are between two stages: of all sizes, anywhere in the image."""
    h, w = size
    shape, channels = (case.batch, case.queries), model.neck.norm.num_channels
    features = [torch.randn(case.batch, channels, -(-h // s), -(-w // s)) for s in model.decoder.strides]
    xy = torch.rand(*shape, 2) * torch.tensor([w, h])
    zr = torch.rand(*shape, 2) * torch.tensor([5.0, 2.0]) + torch.tensor([3.0, -1.0])
    return features, torch.randn(*shape, model.queries.content.shape[1]), torch.cat((xy, zr), dim=-1)


def prepare(models: dict[str, nn.Module], case: Case, size: tuple[int, int]) -> dict[str, Callable[[], Any]]:
    """For each model its forward pass: the predictions or, in training, the loss."""
    torch.manual_seed(0)
    one = next(iter(models.values()))
    device, query_dim = one.device, one.queries.content.shape[1]
    images = random_images(case.batch, size, one.decoder.num_classes)
    features, content, xyzr = decoder_inputs(case, size, one)
    content, xyzr = content.to(device).requires_grad_(case.training), xyzr.to(device)
    truth = [image["instances"].to(device) for image in images]
    targets = [(one.gt_classes, one.gt_boxes.tensor) for one in truth]
    queries = Queries(case.queries, query_dim).to(device)

    def forward_of(model: nn.Module) -> Callable[[], Any]:
        model.train(case.training)
        model.queries = queries
        # Levels of a model's own, where and as its neck gives them.
        levels = [f.to(device, memory_format=model.memory_format, copy=True) for f in features]
        for level in levels:
            level.requires_grad_(case.training)

        def forward() -> Any:
            for tensor in (*levels, content):
                tensor.grad = None
            with torch.set_grad_enabled(case.training):
                if case.part == "detector":
                    out = model(images)
                else:
                    out = model.decoder(levels, content, xyzr)
                    if case.training:
                        out = model.criterion(out, targets, [size] * case.batch)
            return sum(out.values()) if case.training else out

        return forward

    return {name: forward_of(model) for name, model in models.items()}


def step(model: nn.Module, forward: Callable[[], Any], training: bool) -> None:
    if training:
        model.zero_grad()
        forward().backward()
    else:
        forward()


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
