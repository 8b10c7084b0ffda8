"""Adaptive 3D sampling (Gao et al., CVPR 2022): features read at points in x, y and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lors.adamixer.boxes import on_device, size_of


class Pyramid:
    """Feature levels laid out once as a table of rows, one row a position and channel group.

    Reading a point is then one weighted sum of 4 rows (bilinear) of each level.

    Args:
        levels: (B, d_feat, H_l, W_l) each.
        strides: pixels between neighbours of each level.
        groups: g; group k reads channels k C .. (k + 1) C with C = d_feat / g.
    """

    def __init__(self, levels: Sequence[Tensor], strides: Sequence[int], groups: int) -> None:
        rows = torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)
        self.dtype = rows.dtype
        # torch sums rows of 16 bits on a GPU, and has no gradient of that.
        self.table = rows.view(-1, rows.shape[2] // groups).to(torch.promote_types(self.dtype, torch.float32))
        counts = [level.shape[2] * level.shape[3] for level in levels]
        starts = [sum(counts[:i]) for i in range(len(counts))]
        sides = [(level.shape[3], level.shape[2]) for level in levels]
        known = [(*side, s, math.log2(s), start) for side, s, start in zip(sides, strides, starts)]
        # Of each level
        self.size, self.stride, self.log2_stride, start = on_device(known, rows).split((2, 1, 1, 1), dim=1)
        image = torch.arange(rows.shape[0], device=rows.device, dtype=torch.int32) * sum(counts)
        group = torch.arange(groups, device=rows.device, dtype=torch.int32)
        # (B, 1, g, 1, level, 1, 1), the first row of a level
        first = (image[:, None, None] + start[:, 0].int()) * groups + group[:, None]
        self.first = first[:, None, :, None, :, None, None]
        self.groups = groups

    def sample(self, points: Tensor) -> Tensor:
        """Points (B, L, g, P, 3) as x, y in pixels and z in log2 pixels -> features (B, L, g, P, C).

        Zero outside a level, which spans its own size times its stride; the levels are weighted by
        softmax of -(z - log2 stride)^2 / 2.
        """
        xy, z = points[..., None, :2], points[..., None, 2]
        level_weight = (-((z - self.log2_stride[:, 0]) ** 2) / 2).softmax(dim=-1)
        position, weight = _neighbours(xy, self.size, self.stride)  # (B, L, g, P, level, xy, 2)
        column, line = position[..., 0, None, :], position[..., 1, :, None]
        row = self.first + (line * self.size[:, 0, None, None].int() + column) * self.groups
        weight = (weight[..., 1, :, None] * weight[..., 0, None, :]).to(self.table.dtype)
        read = F.embedding_bag(
            row.view(-1, 4),
            self.table,
            per_sample_weights=weight.view(-1, 4).to(self.table.dtype),
            mode="sum",
        )
        # The levels are summed apart, as grid_sample rounds: where a point lies just beside a position, its
        # gradient depends on the last digit.
        read = read.view(*level_weight.shape, -1) * level_weight[..., None].to(read.dtype)
        return read.sum(dim=-2).to(self.dtype)


def _neighbours(xy: Tensor, size: Tensor, stride: Tensor) -> tuple[Tensor, Tensor]:
    """The two positions of each level beside pixel coordinates, clamped, and their bilinear weights.

    xy (..., 1, 2), size (level, 2), stride (level, 1) -> two (..., level, 2, 2). Rounded as grid_sample
    rounds, by way of -1 .. 1 over a level: a point that falls on the other side of a position has another
    gradient.
    """
    unit = xy / (size * stride) * 2 - 1
    at = torch.addcmul((size - 1) / 2, unit, size / 2)
    low = at.detach().floor()
    high = low + 1
    position = torch.stack((low, high), dim=-1)
    last = size[..., None] - 1
    inside = (position >= 0) & (position <= last)
    weight = torch.stack((high - at, at - low), dim=-1) * inside
    return position.clamp(min=0).minimum(last).int(), weight


def sample_points(offsets: Tensor, xyzr: Tensor, groups: int) -> Tensor:
    """A stage's offsets (B, L, 3 g P) as (dx, dy, dz) and boxes (B, L, 4) -> points (B, L, g, P, 3).

    dx and dy count in widths and heights of the query's box, dz adds to its z.
    """
    offsets = offsets.unflatten(-1, (groups, -1, 3))
    box = xyzr[..., None, None, :]
    xy = box[..., :2] + offsets[..., :2] * size_of(box)
    return torch.cat((xy, box[..., 2:3] + offsets[..., 2:]), dim=-1)


def initial_offsets(groups: int, points: int) -> Tensor:
    """(3 g P,): dz = -1; dx, dy a regular grid over the box or, where P is not a square, random."""
    side = round(points**0.5)
    if side**2 == points:
        centre = (torch.arange(side) + 0.5) / side - 0.5
        xy = torch.cartesian_prod(centre, centre).expand(groups, -1, -1)
    else:
        xy = torch.rand(groups, points, 2) - 0.5
    return torch.cat((xy, -torch.ones(groups, points, 1)), dim=-1).flatten()
