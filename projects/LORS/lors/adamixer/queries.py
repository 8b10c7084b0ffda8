"""The queries before the first stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lors.adamixer.boxes import on_device


class Queries(nn.Module):
    """L learned content vectors; every query's first box is its whole image and is not learned."""

    def __init__(self, num_queries: int, query_dim: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(num_queries, query_dim))

    def forward(self, image_sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Heights and widths of B images without padding -> content (B, L, d_q), xyzr (B, L, 4)."""
        content = F.layer_norm(self.content, self.content.shape[-1:])
        h, w = on_device(image_sizes, content).unbind(1)
        whole = torch.stack((w / 2, h / 2, (w * h).log2() / 2, (h / w).log2()), dim=-1)
        batch, num_queries = len(whole), len(content)
        return content.expand(batch, -1, -1), whole[:, None].expand(-1, num_queries, -1)
