"""Swin Transformer (Liu et al., ICCV 2021) as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling import Backbone
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer


class Swin(Backbone):
    """torchvision's Swin with a LayerNorm on the output of each of its four stages.

    Args:
        embed_dim, depths, num_heads, window_size: as in the paper (Swin-S: 96, 2-2-18-2, 3-6-12-24, 7).
        drop_path: the rate of the last block; it grows linearly from 0.
        out_features: names for the outputs, of strides 4, 8, 16 and 32.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int = 7,
        drop_path: float = 0.2,
        out_features: Sequence[str] = ("stage1", "stage2", "stage3", "stage4"),
    ) -> None:
        super().__init__()
        # Patch embedding, then stages and patch mergings in turn; its own last norm and head are left out.
        self.features = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=embed_dim,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=[window_size, window_size],
            stochastic_depth_prob=drop_path,
        ).features
        channels = [embed_dim * 2**i for i in range(len(out_features))]
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(out_features, channels))
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(out_features)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> for each stage (B, channels, H / stride, W / stride)."""
        outputs = {}
        for i, (name, norm) in enumerate(zip(self._out_features, self.norms)):
            x = self.features[2 * i + 1](self.features[2 * i](x))
            outputs[name] = norm(x).permute(0, 3, 1, 2)
        return outputs
