"""The stack of stages and the bank that they pull their weights from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lors.adamixer.boxes import to_xyxy
from lors.adamixer.sampling import Pyramid
from lors.adamixer.stage import DecoderStage
from lors.bank import ParameterBank


class Decoder(nn.Module):
    """AdaMixer's decoder: as many stages as the bank has layers; sizes follow from the bank.

    Args:
        strides: pixels per position of each feature level.
        activation_checkpointing: in training, a stage keeps its inputs alone and computes the rest again for
            the backward pass: less memory, a third more work.

    Raises:
        ValueError: query_dim and num_heads do not fit.
    """

    def __init__(
        self,
        bank: ParameterBank,
        num_classes: int,
        *,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        strides: Sequence[int] = (4, 8, 16, 32),
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if bank.query_dim % (4 * 2) or bank.query_dim % num_heads:
            raise ValueError(
                f"query_dim={bank.query_dim}: must be a multiple of 8 and of num_heads={num_heads}"
            )
        self.bank, self.num_classes, self.strides = bank, num_classes, tuple(strides)
        self.activation_checkpointing = activation_checkpointing
        self.stages = nn.ModuleList(
            DecoderStage(bank.query_dim, bank.groups, bank.points_in, num_classes, num_heads, ffn_dim)
            for _ in range(bank.num_stages)
        )

    def forward(
        self, features: Sequence[Tensor], content: Tensor, xyzr: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Runs every stage.

        Args:
            features: (B, d_feat, H_l, W_l), one for each stride.
            content: (B, L, d_q).
            xyzr: (B, L, 4), pixels and log2 pixels.

        Returns:
            For each stage, class logits (B, L, classes) and boxes xyxy in pixels (B, L, 4).
        """
        pyramid = Pyramid(features, self.strides, self.bank.groups)
        predictions = []
        for layer, stage in enumerate(self.stages):
            given = pyramid, content, xyzr, self.bank, layer
            if self.activation_checkpointing and torch.is_grad_enabled():
                logits, xyzr, content = checkpoint(stage, *given, use_reentrant=False)
            else:
                logits, xyzr, content = stage(*given)
            predictions.append((logits, to_xyxy(xyzr)))
            xyzr = xyzr.detach()
        return predictions
