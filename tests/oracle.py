"""The method as the papers write it: literal, slow, and independent of the package's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def non_dynamic_fused_weight(W_shared: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Figure 2: W_shared (1, d, h), A (G, r, h), B (G, d, r) -> (d, h)."""
    W_private = B @ A
    return torch.cat([W_shared, W_private], dim=0).sum(dim=0)


def dynamic_fused_weight(
    q: Tensor,
    shared_linear: Callable[[Tensor], Tensor],
    private_linear: Callable[[Tensor], Tensor],
    A: Tensor,
    B: Tensor,
) -> Tensor:
    """Figure 3: q (N, C), A (1, G, r, h), B (1, G, d, r) -> (N, d, h).

    `shared_linear` turns q into (N, d h) numbers and `private_linear` into (N, G r r).
    """
    N, G, r, d, h = len(q), *A.shape[1:3], B.shape[2], A.shape[3]
    W_shared = shared_linear(q).reshape(N, 1, d, h)
    E = private_linear(q).reshape(N, G, r, r)
    W_private = B @ E @ A
    return torch.cat([W_shared, W_private], dim=1).sum(dim=1)


def literal_sampling(levels: Sequence[Tensor], strides: Sequence[int], points: Tensor, groups: int) -> Tensor:
    """Levels (B, g C, H, W), points (B, L, g, P, 3), pixels and log2 pixels -> (B, L, g, P, C).

    One bilinear reading of each level, weighted by softmax over levels of -(z - log2 stride)^2 / 2.
    """
    B, L, g, P, _ = points.shape
    assert g == groups
    log_strides = torch.tensor(strides, dtype=points.dtype, device=points.device).log2()
    weight = (-((points[..., 2:] - log_strides) ** 2) / 2).softmax(-1)
    total = 0
    for i, (level, stride) in enumerate(zip(levels, strides)):
        h, w = level.shape[-2:]
        grid = points[..., :2] / (points.new_tensor([w, h]) * stride)
        grid = grid.transpose(1, 2).reshape(B * g, L, P, 2) * 2.0 - 1.0
        maps = level.reshape(B * g, -1, h, w)
        read = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        read = read.view(B, g, -1, L, P).permute(0, 3, 1, 4, 2)
        total = total + read * weight[..., i, None]
    return total


def literal_mixing(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    """Equations 4 and 6, one query and group at a time.

    x (B, L, g, P_in, C), M_c (B, L, g, C, C), M_s (B, L, g, P_in, P_out) -> (B, L, g P_out C).
    """
    B, L, g = x.shape[:3]
    rows = []
    for b in range(B):
        for query in range(L):
            for group in range(g):
                at = b, query, group
                acm = torch.relu(_layer_norm(x[at] @ channel[at]))
                asm = torch.relu(_layer_norm(acm.T @ spatial[at]))
                rows.append(asm.T.reshape(-1))
    return torch.stack(rows).view(B, L, -1)


def _layer_norm(x: Tensor) -> Tensor:
    """Over the whole matrix, without parameters."""
    return (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
