"""From backbone features to the pyramid that the decoder samples."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Neck(nn.Module):
    """A 1x1 convolution for each level, then ONE GroupNorm whose parameters all levels share."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_groups: int = 32) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.norm = nn.GroupNorm(num_groups, out_channels)
        for conv in self.lateral:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(B, in_channels_l, H_l, W_l) each -> (B, out_channels, H_l, W_l) each."""
        return [self.norm(conv(x)) for conv, x in zip(self.lateral, features)]
