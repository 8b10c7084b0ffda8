"""Boxes as AdaMixer keeps them, in float32 at least.

`xyzr`: x, y the centre in pixels, z = log2(sqrt(w h)) in log2 pixels, r = log2(h / w).
`xyxy`: the corners in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(values: Sequence[float] | Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """A small float32 tensor where `like` is, for which the host does not wait."""
    # Under torch.jit's tracing, sizes of images are tensors.
    values = [value.tolist() if isinstance(value, Tensor) else value for value in values]
    return torch.tensor(values, dtype=torch.float32).to(like.device, non_blocking=True)


def size_of(xyzr: Tensor) -> Tensor:
    """(..., 4) -> width and height in pixels, (..., 2): w = 2^z 2^(-r/2), h = 2^z 2^(r/2)."""
    z, r = xyzr[..., 2:3], xyzr[..., 3:4]
    return z.exp2() * torch.cat((r * -0.5, r * 0.5), dim=-1).exp2()


def to_xyxy(xyzr: Tensor) -> Tensor:
    """(..., 4) xyzr -> (..., 4) corners in pixels."""
    centre, half = xyzr[..., :2], size_of(xyzr) / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al., CVPR 2019) of boxes xyxy (..., 4), which are broadcast -> (...)."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (a, b)]
    union = areas[0] + areas[1] - intersection
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).prod(dim=-1)
    return intersection / (union + 1e-7) - (hull - union) / (hull + 1e-7)


def refine(xyzr: Tensor, delta: Tensor) -> Tensor:
    """Moves boxes (..., 4) by a stage's output (..., 4): the centre in units of 2^z, z and r by addition."""
    centre = xyzr[..., :2] + delta[..., :2] * xyzr[..., 2:3].exp2()
    return torch.cat((centre, xyzr[..., 2:] + delta[..., 2:]), dim=-1)


def intersection_over_first(boxes: Tensor) -> Tensor:
    """xyxy (..., L, 4) -> (..., L, L): area(i and j) / area(i)."""
    low = torch.maximum(boxes[..., :, None, :2], boxes[..., None, :, :2])
    high = torch.minimum(boxes[..., :, None, 2:], boxes[..., None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    return intersection / area.clamp(min=1e-6)[..., :, None]


def position_embedding(xyzr: Tensor, dim: int) -> Tensor:
    """(..., 4) -> (..., dim): x / 1000, y / 1000, z and r, each as dim / 4 interleaved sines and cosines."""
    scaled = torch.cat((xyzr[..., :2] / 1000, xyzr[..., 2:]), dim=-1)
    index = torch.arange(0, dim // 4, 2, device=xyzr.device, dtype=xyzr.dtype)
    angle = scaled[..., None] / 10000 ** (index / (dim // 4))
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)
