"""Adaptive channel and spatial mixing (Gao et al., CVPR 2022; LORS, equations 3 to 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptiveMixing(nn.Module):
    """Mixes the channels, then the points, of each query's samples with weights that the query makes.

    `channel` makes M_c (g, C, C), `spatial` M_s (g, P_in, P_out), and `output` projects to d_q.
    """

    def __init__(self, query_dim: int, groups: int, channels: int, points_in: int, points_out: int) -> None:
        super().__init__()
        self.groups, self.channels, self.points_in, self.points_out = groups, channels, points_in, points_out
        self.channel = nn.Linear(query_dim, groups * channels**2)
        self.spatial = nn.Linear(query_dim, groups * points_in * points_out)
        self.output = nn.Linear(groups * points_out * channels, query_dim)
        self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        # At first the mixing weights are the bias, the same for every query.
        nn.init.zeros_(self.channel.weight)
        nn.init.zeros_(self.spatial.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        """Samples (B, L, g, P_in, C) and queries (B, L, d_q) -> (B, L, d_q)."""
        query = query.to(x.dtype)  # once for both, where autocast would cast it for each
        channel = self.channel(query).unflatten(-1, (self.groups, self.channels, self.channels))
        spatial = self.spatial(query).unflatten(-1, (self.groups, self.points_in, self.points_out))
        x = _norm_relu(x @ channel)
        x = _norm_relu(spatial.transpose(-1, -2) @ x)
        return self.output(x.flatten(2))


def _norm_relu(x: Tensor) -> Tensor:
    # The norm computes in float32 itself; autocast would make a copy in float32 for it.
    with torch.autocast(x.device.type, enabled=False):
        return F.relu(F.layer_norm(x, x.shape[-2:]), inplace=True)
