"""One stage of the AdaMixer decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lors.adamixer.boxes import intersection_over_first, position_embedding, refine, to_xyxy
from lors.adamixer.mixing import adaptive_mixing
from lors.adamixer.sampling import Pyramid, initial_offsets, sample_points
from lors.bank import ParameterBank
from lors.stack import eager_on_cpu

QUERIES_AT_A_TIME = 64


class DecoderStage(nn.Module):
    """Attention among queries, sampling, mixing, FFN, and the two heads.

    Holds what is a stage's own; the heavy weights come from the bank it is handed, by its number.
    """

    def __init__(
        self,
        query_dim: int,
        groups: int,
        points: int,
        num_classes: int,
        num_heads: int,
        ffn_dim: int,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.iof_tau = nn.Parameter(torch.empty(num_heads))
        self.attention = nn.MultiheadAttention(query_dim, num_heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(query_dim)
        self.offsets = nn.Linear(query_dim, groups * points * 3)
        self.mixing_norm = nn.LayerNorm(query_dim)
        self.ffn = nn.Sequential(
            nn.Linear(query_dim, ffn_dim), nn.ReLU(inplace=True), nn.Linear(ffn_dim, query_dim)
        )
        self.ffn_norm = nn.LayerNorm(query_dim)
        self.classify = _head(query_dim, num_classes)
        self.regress = _head(query_dim, 4)
        self._reset(points)

    @torch.no_grad()
    def _reset(self, points: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.uniform_(self.iof_tau, 0, 4)
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.copy_(initial_offsets(self.groups, points))
        prior = 0.01
        nn.init.constant_(self.classify[-1].bias, -math.log((1 - prior) / prior))
        nn.init.zeros_(self.regress[-1].weight)
        nn.init.zeros_(self.regress[-1].bias)

    def forward(
        self, pyramid: Pyramid, content: Tensor, xyzr: Tensor, bank: ParameterBank, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """content (B, L, d_q), xyzr (B, L, 4) -> class logits (B, L, classes), xyzr, content."""
        content = self.attention_norm(self._attend(content, xyzr))
        points = sample_points(self.offsets(content), xyzr, self.groups)
        sampled = pyramid.sample(points)
        content = self.mixing_norm(content + _mix_and_project(sampled, content, bank, layer))
        content = self.ffn_norm(content + self.ffn(content))
        return self.classify(content), refine(xyzr, self.regress(content)), content

    def _attend(self, content: Tensor, xyzr: Tensor) -> Tensor:
        with torch.no_grad():
            position = position_embedding(xyzr, content.shape[-1])
            iof = (intersection_over_first(to_xyxy(xyzr)) + 1e-7).log()
        # (B heads, L, L), added to the attention logits
        bias = (self.iof_tau[:, None, None] * iof[:, None]).flatten(0, 1)
        content = content + position
        return content + self.attention(content, content, content, attn_mask=bias, need_weights=True)[0]


def _mix_and_project(sampled: Tensor, content: Tensor, bank: ParameterBank, layer: int) -> Tensor:
    """Mixing with weights made from content, and the output projection: (B, L, d_q)."""

    def mix(x: Tensor, q: Tensor) -> Tensor:
        mixed = adaptive_mixing(x, bank.channel(q, layer), bank.spatial(q, layer))
        return bank.output(mixed, layer)

    if torch.is_grad_enabled() or not eager_on_cpu(content):
        return mix(sampled, content)
    # The weights of so many queries stay in the processor's cache until they are used.
    parts = (x.flatten(0, 1)[None].split(QUERIES_AT_A_TIME, dim=1) for x in (sampled, content))
    return torch.cat([mix(x, q) for x, q in zip(*parts)], dim=1).view_as(content)


def _head(query_dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(query_dim, query_dim),
        nn.LayerNorm(query_dim),
        nn.ReLU(inplace=True),
        nn.Linear(query_dim, out),
    )
