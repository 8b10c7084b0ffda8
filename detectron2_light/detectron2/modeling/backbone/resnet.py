"""Residual networks, https://arxiv.org/abs/1512.03385."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

from ...layers import FrozenBatchNorm2d

NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass
class ShapeSpec:
    """Channels of a feature map and its stride to the input image."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """Maps images (N, C, H, W) to a dict of named feature maps.

    Subclasses set `_out_features` (names), `_out_feature_channels` and `_out_feature_strides` (by name).
    """

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each output."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {k: ShapeSpec(channels[k], strides[k]) for k in self._out_features}


class _Conv(nn.Conv2d):
    """A convolution without bias that keeps the size or divides it by its stride, and a normalization."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, norm: str, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        assert norm == "BN", norm
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(x))


class CNNBlockBase(nn.Module):
    """A block with `in_channels`, `out_channels` and `stride` that can be frozen."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def freeze(self) -> None:
        """Stop the training of all parameters and fix the batch statistics."""
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)


class BasicStem(CNNBlockBase):
    """7x7 convolution and max pooling: stride 4 in all."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: str = "BN") -> None:
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _Conv(in_channels, out_channels, 7, norm, stride=2)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class _ResidualBlock(CNNBlockBase):
    """Convolutions of (channels, kernel, stride) each, and one as shortcut if channels change."""

    def __init__(
        self, in_channels: int, convs: Sequence[tuple[int, int, int]], stride: int, norm: str
    ) -> None:
        out_channels = convs[-1][0]
        super().__init__(in_channels, out_channels, stride)
        changes = in_channels != out_channels
        self.shortcut = _Conv(in_channels, out_channels, 1, norm, stride) if changes else None
        for i, (channels, kernel, conv_stride) in enumerate(convs, start=1):
            self.add_module(f"conv{i}", _Conv(in_channels, channels, kernel, norm, conv_stride))
            in_channels = channels
        self._names = [f"conv{i + 1}" for i in range(len(convs))]
        for layer in [getattr(self, name) for name in self._names] + [self.shortcut]:
            if layer is not None:
                weight_init.c2_msra_fill(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for name in self._names[:-1]:
            out = F.relu_(getattr(self, name)(out))
        out = getattr(self, self._names[-1])(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions, as in ResNet-18 and ResNet-34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "BN") -> None:
        super().__init__(in_channels, [(out_channels, 3, stride), (out_channels, 3, 1)], stride, norm)


class BottleneckBlock(_ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions; the second has the stride."""

    def __init__(
        self, in_channels: int, out_channels: int, *, bottleneck_channels: int, stride: int, norm: str
    ) -> None:
        width = bottleneck_channels
        super().__init__(in_channels, [(width, 1, 1), (width, 3, stride), (out_channels, 1, 1)], stride, norm)


class ResNet(Backbone):
    """A stem and up to four stages, lists of blocks, that become the modules res2 to res5.

    `out_features` names the outputs; later stages are left out. `freeze_at` freezes the stem (1), also res2
    (2), and so on; 0 for nothing.
    """

    def __init__(
        self, stem: CNNBlockBase, stages: Sequence[Sequence[CNNBlockBase]], *, out_features: Sequence[str],
        freeze_at: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        names = ["stem"] + [f"res{i + 2}" for i in range(len(stages))]
        self._out_features = list(out_features)
        self.stem = stem
        self._names = names[: 1 + max(names.index(name) for name in out_features)]
        self._out_feature_channels = {"stem": stem.out_channels}
        self._out_feature_strides = {"stem": stem.stride}
        stride = stem.stride
        for name, blocks in zip(self._names[1:], stages):
            self.add_module(name, nn.Sequential(*blocks))
            for block in blocks:
                stride *= block.stride
            self._out_feature_channels[name] = blocks[-1].out_channels
            self._out_feature_strides[name] = stride
        for name in self._names[:freeze_at]:
            for block in [stem] if name == "stem" else getattr(self, name):
                block.freeze()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) to one (N, channels, H / stride, W / stride) per output."""
        outputs = {}
        for name in self._names:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase], num_blocks: int, *, stride_per_block: Sequence[int],
        in_channels: int, out_channels: int, **kwargs: Any,
    ) -> list[CNNBlockBase]:  # fmt: skip
        """The blocks of a stage, each with a stride of its own."""
        inputs = [in_channels] + [out_channels] * (num_blocks - 1)
        return [block_class(c, out_channels, stride=s, **kwargs) for c, s in zip(inputs, stride_per_block)]

    @staticmethod
    def make_default_stages(
        depth: int, *, stride_in_1x1: bool = False, norm: str = "BN"
    ) -> list[list[CNNBlockBase]]:
        """The four stages of a ResNet of 50 or 101 layers."""
        assert not stride_in_1x1, stride_in_1x1
        stages, channels = [], 64
        for stage, number in enumerate(NUM_BLOCKS[depth]):
            width = 64 * 2**stage
            stages.append(
                ResNet.make_stage(
                    BottleneckBlock, number, stride_per_block=[min(stage, 1) + 1] + [1] * (number - 1),
                    in_channels=channels, out_channels=4 * width, bottleneck_channels=width, norm=norm,
                )
            )  # fmt: skip
            channels = 4 * width
        return stages
