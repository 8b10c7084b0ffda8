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


def size_of(zr: Tensor) -> Tensor:
    """z and r (..., 2) -> width and height in pixels (..., 2): w = 2^(z - r/2), h = 2^(z + r/2)."""
    z, r = zr.split(1, dim=-1)
    return torch.cat((torch.sub(z, r, alpha=0.5), torch.add(z, r, alpha=0.5)), dim=-1).exp2()


def to_xyxy(xyzr: Tensor) -> Tensor:
    """(..., 4) xyzr -> (..., 4) corners in pixels."""
    centre, zr = xyzr.split(2, dim=-1)
    size = size_of(zr)
    return torch.cat((torch.sub(centre, size, alpha=0.5), torch.add(centre, size, alpha=0.5)), dim=-1)


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
    (centre, zr), (shift, change) = xyzr.split(2, dim=-1), delta.split(2, dim=-1)
    return torch.cat((torch.addcmul(centre, shift, zr[..., :1].exp2()), zr + change), dim=-1)


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
    pairs = dim // 8
    frequency = torch.logspace(0, 1 / pairs - 1, pairs, base=10000, dtype=xyzr.dtype, device=xyzr.device)
    angle = scaled[..., None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)
