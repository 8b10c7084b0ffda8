"""One stage of the AdaMixer decoder (Gao et al., CVPR 2022)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lors.adamixer.boxes import intersection_over_first, position_embedding, refine, to_xyxy
from lors.adamixer.mixing import AdaptiveMixing
from lors.adamixer.sampling import Pyramid, initial_offsets, sample_points


class DecoderStage(nn.Module):
    """Attention among queries, sampling, mixing, FFN, and the two heads.

    Args:
        query_dim: d_q.
        groups: g, each of which samples and mixes `channels` = C of the features' channels.
        points_in, points_out: sampled points of a group, and patterns that they are mixed into.
        ffn_dim: inner size of the FFN.
        prior: the probability of each class that the classifier starts from.

    Raises:
        ValueError: query_dim and num_heads do not fit.
    """

    def __init__(
        self,
        query_dim: int,
        groups: int,
        channels: int,
        points_in: int,
        points_out: int,
        num_classes: int,
        num_heads: int,
        ffn_dim: int,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        if query_dim % 8 or query_dim % num_heads:
            raise ValueError(f"query_dim={query_dim}: must be a multiple of 8 and of num_heads={num_heads}")
        self.groups = groups
        self.iof_tau = nn.Parameter(torch.empty(num_heads))
        self.attention = nn.MultiheadAttention(query_dim, num_heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(query_dim)
        self.offsets = nn.Linear(query_dim, groups * points_in * 3)
        self.mixing = AdaptiveMixing(query_dim, groups, channels, points_in, points_out)
        self.mixing_norm = nn.LayerNorm(query_dim)
        self.ffn = nn.Sequential(
            nn.Linear(query_dim, ffn_dim), nn.ReLU(inplace=True), nn.Linear(ffn_dim, query_dim)
        )
        self.ffn_norm = nn.LayerNorm(query_dim)
        self.classify = _head(query_dim, num_classes)
        self.regress = _head(query_dim, 4)
        self._reset(points_in, prior)

    @torch.no_grad()
    def _reset(self, points: int, prior: float) -> None:
        for part in (self.attention, self.ffn, self.classify, self.regress):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
        nn.init.uniform_(self.iof_tau, 0, 4)
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.copy_(initial_offsets(self.groups, points))
        nn.init.constant_(self.classify[-1].bias, -math.log((1 - prior) / prior))
        nn.init.zeros_(self.regress[-1].weight)
        nn.init.zeros_(self.regress[-1].bias)

    def forward(self, pyramid: Pyramid, content: Tensor, xyzr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """content (B, L, d_q), xyzr (B, L, 4) -> class logits (B, L, classes), xyzr, content."""
        # What is multiplied by the size of a box is pixels, for which 16 bits are too few.
        full_precision = torch.autocast(content.device.type, enabled=False)
        content = self.attention_norm(self._attend(content, xyzr))
        with full_precision:
            points = sample_points(self.offsets(content), xyzr, self.groups)
            sampled = pyramid.sample(points)
        content = self.mixing_norm(content + self.mixing(sampled, content))
        content = self.ffn_norm(content + self.ffn(content))
        with full_precision:
            xyzr = refine(xyzr, self.regress(content))
        return self.classify(content), xyzr, content

    def _attend(self, content: Tensor, xyzr: Tensor) -> Tensor:
        with torch.no_grad():
            position = position_embedding(xyzr, content.shape[-1])
            iof = (intersection_over_first(to_xyxy(xyzr)) + 1e-7).log()
        bias = self.iof_tau[:, None, None] * iof[:, None]  # (B, heads, L, L), added to the attention logits
        # The module's own forward pass copies the three parts, and in the backward pass more than that.
        weights = self.attention
        content = content + position.to(content.dtype)
        qkv = F.linear(content, weights.in_proj_weight, weights.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, len(self.iof_tau), -1)).permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return content + weights.out_proj(attended.transpose(1, 2).flatten(2))


def _head(query_dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(query_dim, query_dim),
        nn.LayerNorm(query_dim),
        nn.ReLU(inplace=True),
        nn.Linear(query_dim, out),
    )
