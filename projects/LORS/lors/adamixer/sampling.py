"""Adaptive 3D sampling (Gao et al., CVPR 2022): features read at points in x, y and scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lors.adamixer.boxes import size_of


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
        self.positions = rows.shape[1]
        self.table = rows.view(-1, rows.shape[2] // groups)
        like = dict(dtype=torch.float32, device=rows.device)
        self.stride = torch.tensor(strides, **like)
        self.width = torch.tensor([level.shape[3] for level in levels], **like)
        self.height = torch.tensor([level.shape[2] for level in levels], **like)
        counts = [level.shape[2] * level.shape[3] for level in levels]
        starts = [sum(counts[:i]) for i in range(len(counts))]
        self.start = torch.tensor(starts, device=rows.device, dtype=torch.int32)
        if torch.is_grad_enabled():
            self.read: list[Read] = []
            self.token = _Table.apply(self.table, self.read)
            self.table = self.table.detach()

    def sample(self, points: Tensor) -> Tensor:
        """Points (B, L, g, P, 3) as x, y in pixels and z in log2 pixels -> features (B, L, g, P, C).

        Zero outside a level, which spans its own size times its stride; the levels are weighted by
        softmax of -(z - log2 stride)^2 / 2.
        """
        batch, groups = points.shape[0], points.shape[2]
        x, y, z = points.split(1, dim=-1)
        # All of (B, L, g, P, level)
        level_weight = (-((z - self.stride.log2()) ** 2) / 2).softmax(dim=-1)
        columns, column_weights = _neighbours(x, self.width, self.stride)
        lines, line_weights = _neighbours(y, self.height, self.stride)
        image = self.start + _along(0, batch, x) * self.positions
        group, width = _along(2, groups, x), self.width.int()
        lines = [(image + line * width) * groups + group for line in lines]
        columns = [column * groups for column in columns]
        row = torch.stack([line + column for line in lines for column in columns], dim=-1)
        weight = torch.stack([y * x for y in line_weights for x in column_weights], dim=-1)
        row, weight, level_weight = row.flatten(0, 3), weight.flatten(0, 3), level_weight.flatten(0, 3)
        weight, level_weight = weight.to(self.table.dtype), level_weight.to(self.table.dtype)
        if torch.is_grad_enabled():
            features = _WeightedRows.apply(self.token, self.table, row, weight, level_weight, self.read)
        else:  # plain operations, which can be traced and counted
            features = _weighted_rows(
                self.table, row.flatten(1), (weight * level_weight[..., None]).flatten(1)
            )
        return features.view(*points.shape[:-1], -1)


def _neighbours(pixel: Tensor, size: Tensor, stride: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The two positions of each level beside a pixel coordinate, clamped, and their bilinear weights.

    Rounded as grid_sample rounds, by way of -1 .. 1 over a level: a point that falls on the other side of a
    position has another gradient.
    """
    unit = pixel / (size * stride) * 2 - 1
    at = torch.addcmul((size - 1) / 2, unit, size / 2)
    low = at.detach().floor()
    high = low + 1
    fraction = at - low
    weights = [(1 - fraction) * _inside(low, size), fraction * _inside(high, size)]
    positions = [i.clamp(min=0).minimum(size - 1).int() for i in (low, high)]
    return positions, weights


def _inside(position: Tensor, size: Tensor) -> Tensor:
    return ((position >= 0) & (position < size)).to(position.dtype)


def _weighted_rows(table: Tensor, row: Tensor, weight: Tensor) -> Tensor:
    """table (R, C), row and weight (N, K) -> (N, C), the weighted sum of K rows."""
    return F.embedding_bag(row, table, per_sample_weights=weight, mode="sum")


# Of one reading in a backward pass: which pass, rows and weights (N, levels, K), gradient (N, C).
Read = tuple[int, Tensor, Tensor, Tensor]


class _Table(torch.autograd.Function):
    """A table (R, C) as a scalar that stands for it in each of its readings, and the gradient of all of them.

    A reading's backward pass leaves what it knows in `read`. The table's gradient is one weighted sum over
    the points that read a row: sorted by row they are bags. So a table much larger than a reading is written
    once, and without atomic addition the sum is the same each time on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, read: list[Read]) -> Tensor:
        ctx.read, ctx.rows = read, len(table)
        return table.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        # A pass that did not want the table's gradient may have left its readings there.
        now = [read[1:] for read in ctx.read if read[0] == torch._C._current_graph_task_id()]
        ctx.read.clear()
        row, weight, gradient = (torch.cat(parts) for parts in zip(*now))
        order = row.flatten().argsort()
        readers = torch.bincount(row.flatten(), minlength=ctx.rows)
        to_table = F.embedding_bag(
            order.div(row[0].numel(), rounding_mode="floor"),
            gradient,
            readers.cumsum(0) - readers,
            per_sample_weights=weight.flatten()[order],
            mode="sum",
        )
        return to_table, None


class _WeightedRows(torch.autograd.Function):
    """The weighted sum of each level's rows, then of the levels, with gradients.

    table (R, C), row and weight (N, levels, K), level_weight (N, levels) -> (N, C). Two sums, because that is
    grid_sample's rounding, and a point that falls on the other side of a position has another gradient. The
    table's gradient is `_Table`'s; the weights' by F.embedding_bag itself would be several times slower.
    """

    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        table: Tensor,
        row: Tensor,
        weight: Tensor,
        level_weight: Tensor,
        read: list[Read],
    ) -> Tensor:
        ctx.save_for_backward(table, row, weight, level_weight)
        ctx.read = read
        levels = _weighted_rows(table, row.flatten(0, 1), weight.flatten(0, 1))
        return levels.view(*level_weight.shape, -1).mul_(level_weight[..., None]).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        table, row, weight, level_weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_token = None
        if ctx.needs_input_grad[0]:
            task = torch._C._current_graph_task_id()
            ctx.read.append((task, row, weight * level_weight[..., None], gradient))
            to_token = table.new_zeros(())
        reads = row[0].numel()
        point = torch.arange(len(row), device=row.device, dtype=row.dtype)
        product = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            gradient, table, row.flatten(), point * reads, point.repeat_interleave(reads), 0
        ).view_as(weight)
        to_weight, to_level_weight = product * level_weight[..., None], (product * weight).sum(dim=-1)
        return to_token, None, None, to_weight, to_level_weight, None


def _along(dim: int, size: int, like: Tensor) -> Tensor:
    """0 .. size - 1 along one dimension of `like`."""
    return torch.arange(size, device=like.device, dtype=torch.int32).view(-1, *[1] * (like.dim() - dim - 1))


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
