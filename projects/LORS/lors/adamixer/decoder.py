"""The stack of stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lors.adamixer.boxes import to_xyxy
from lors.adamixer.sampling import Pyramid
from lors.adamixer.stage import DecoderStage


class Decoder(nn.Module):
    """AdaMixer's decoder: N identical stages, each of which refines the queries and their boxes.

    Args:
        num_stages: N.
        query_dim: d_q.
        feature_dim: channels of the feature levels, a multiple of `groups`.
        groups, points_in, points_out, num_heads, ffn_dim, num_classes: of every stage, see `DecoderStage`.
        strides: pixels per position of each feature level.
        stage: makes a stage of these sizes, given by name, with `channels` = feature_dim / groups.
        bank: its `attach` lets the stages share weights; None for AdaMixer, whose stages share none.
        activation_checkpointing: in training, a stage keeps its inputs alone and computes the rest again for
            the backward pass: less memory, about 1.75 times the time.

    Raises:
        ValueError: sizes that do not fit.
    """

    def __init__(
        self,
        num_stages: int = 6,
        query_dim: int = 256,
        feature_dim: int = 256,
        groups: int = 4,
        points_in: int = 32,
        points_out: int = 128,
        num_classes: int = 80,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        strides: Sequence[int] = (4, 8, 16, 32),
        *,
        stage: Callable[..., nn.Module] = DecoderStage,
        bank: nn.Module | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if feature_dim % groups:
            raise ValueError(f"feature_dim={feature_dim}: must be a multiple of groups={groups}")
        self.groups, self.num_classes, self.strides = groups, num_classes, tuple(strides)
        self.activation_checkpointing = activation_checkpointing
        sizes = dict(query_dim=query_dim, groups=groups, channels=feature_dim // groups, points_in=points_in)
        sizes.update(points_out=points_out, num_classes=num_classes, num_heads=num_heads, ffn_dim=ffn_dim)
        self.stages = nn.ModuleList(stage(**sizes) for _ in range(num_stages))
        self.bank = bank
        if bank is not None:
            bank.attach(self.stages)

    def forward(
        self, features: Sequence[Tensor], content: Tensor, xyzr: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Runs every stage.

        Args:
            features: (B, feature_dim, H_l, W_l), one for each stride.
            content: (B, L, d_q).
            xyzr: (B, L, 4), pixels and log2 pixels.

        Returns:
            For each stage, class logits (B, L, classes) and boxes xyxy in pixels (B, L, 4).
        """
        pyramid = Pyramid(features, self.strides, self.groups)
        all_logits, all_xyzr = [], []
        for stage in self.stages:
            if self.activation_checkpointing and torch.is_grad_enabled():
                logits, xyzr, content = checkpoint(stage, pyramid, content, xyzr, use_reentrant=False)
            else:
                logits, xyzr, content = stage(pyramid, content, xyzr)
            all_logits.append(logits)
            all_xyzr.append(xyzr)
            xyzr = xyzr.detach()
        return list(zip(all_logits, to_xyxy(torch.stack(all_xyzr)).unbind()))
