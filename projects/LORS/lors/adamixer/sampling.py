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

    Reading a point is then one weighted sum of rows: 4 of each level (bilinear).

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
        size, self.stride, self.log2_stride, start = on_device(known, rows).split((2, 1, 1, 1), dim=1)
        self.last = size[..., None] - 1
        self.half_square = self.log2_stride.square() * -0.5
        # A point between two positions, at a fraction f of the way, weighs them 1 - f and f.
        self.step = torch.arange(2.0, device=rows.device)
        self.at_start, self.slope = 1 - self.step, 2 * self.step - 1
        self.width = size[:, 0, None, None].int()
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
        xy, z = points[..., None, :].split((2, 1), dim=-1)
        # All levels have the z^2 of the Gaussian, which a softmax does not see.
        level_weight = torch.addcmul(self.half_square, z, self.log2_stride).softmax(dim=-2)
        position, weight = self._neighbours(xy)  # (B, L, g, P, level, xy, 2)
        column, line = position[..., 0, None, :], position[..., 1, :, None]
        row = torch.add(self.first, line * self.width + column, alpha=self.groups)
        weight_x, weight_y = weight[..., 0, None, :], weight[..., 1, :, None]
        weight = weight_y * weight_x * level_weight[..., None]
        read = F.embedding_bag(
            row.flatten(0, 3).flatten(1),
            self.table,
            per_sample_weights=weight.flatten(0, 3).flatten(1).to(self.table.dtype),
            mode="sum",
        )
        return read.view(*points.shape[:-1], -1).to(self.dtype)

    def _neighbours(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """The two positions of each level beside pixel coordinates, clamped, and their bilinear weights.

        xy (..., 1, 2) -> two (..., level, 2, 2).
        """
        at = xy / self.stride - 0.5
        low = at.detach().floor()
        position = low[..., None] + self.step
        # A NaN becomes a whole number of any size, so the lower bound comes after that.
        inside = position.minimum(self.last).int().clamp(min=0)
        weight = torch.addcmul(self.at_start, (at - low)[..., None], self.slope) * (position == inside)
        return inside, weight


def sample_points(offsets: Tensor, xyzr: Tensor, groups: int) -> Tensor:
    """A stage's offsets (B, L, 3 g P) as (dx, dy, dz) and boxes (B, L, 4) -> points (B, L, g, P, 3).

    dx and dy count in widths and heights of the query's box, dz adds to its z.
    """
    shift, change = offsets.unflatten(-1, (groups, -1, 3)).split((2, 1), dim=-1)
    centre, zr = xyzr[..., None, None, :].split(2, dim=-1)
    xy = torch.addcmul(centre, shift, size_of(zr))
    return torch.cat((xy, zr[..., :1] + change), dim=-1)


def initial_offsets(groups: int, points: int) -> Tensor:
    """(3 g P,): dz = -1; dx, dy a regular grid over the box or, where P is not a square, random."""
    side = round(points**0.5)
    if side**2 == points:
        centre = (torch.arange(side) + 0.5) / side - 0.5
        xy = torch.cartesian_prod(centre, centre).expand(groups, -1, -1)
    else:
        xy = torch.rand(groups, points, 2) - 0.5
    return torch.cat((xy, -torch.ones(groups, points, 1)), dim=-1).flatten()
