"""A small model, whose layers are of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Model(nn.Module):
    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    """An attention-like layer that also holds a matrix itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 6))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(6, 24), "proj": nn.Linear(24, 6, bias=False)})
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = self.table.norm()
        return self.norm(x + self.attn["proj"](self.attn["qkv"](x).tanh()) + x @ self.table / scale)


def model_of(kind: Callable[[], nn.Module] = Layer, layers: int = 3) -> Model:
    torch.manual_seed(0)
    return Model([kind() for _ in range(layers)])
