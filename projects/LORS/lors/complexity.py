"""Parameters and operations of a detector, counted on the detector itself."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn


def parameters(module: nn.Module) -> int:
    """Parameters, and the weight and bias of frozen BatchNorms, which are buffers."""
    frozen = (m for m in module.modules() if isinstance(m, FrozenBatchNorm2d))
    return sum(p.numel() for p in module.parameters()) + sum(2 * m.num_features for m in frozen)


@torch.no_grad()
def operations(model: nn.Module, height: int = 800, width: int = 1280) -> tuple[float, float]:
    """fvcore's count of operations (a multiply-add is one) for one image: of the decoder, of all."""
    model.eval()
    analysis = FlopCountAnalysis(_Raw(model), torch.zeros(1, 3, height, width, device=model.device))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    counted = {"embedding_bag": _embedding_bag, "baddbmm": _baddbmm}
    counted["scaled_dot_product_attention"] = _attention
    analysis.set_op_handle(**{f"aten::{name}": count for name, count in counted.items()})
    by_module = analysis.by_module()
    return by_module["model.decoder"], by_module[""]


class _Raw(nn.Module):
    """The detector from a tensor to tensors, as tracing needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self.model.predict(image, [tuple(image.shape[-2:])])


def _shape(value: Any) -> list[int]:
    return value.type().sizes()


def _embedding_bag(inputs: list[Any], outputs: list[Any]) -> Counter:
    rows, channels = _shape(inputs[1]), _shape(inputs[0])[-1]
    return Counter({"embedding_bag": rows[0] * channels})


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> Counter:
    batch, n, k = _shape(inputs[1])
    return Counter({"baddbmm": batch * n * k * _shape(inputs[2])[-1]})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter:
    *batch, queries, channels = _shape(inputs[0])
    return Counter({"attention": 2 * math.prod(batch) * queries * _shape(inputs[1])[-2] * channels})
