"""What a user says of a residual, before there are layers for it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, Union

import torch
from torch import Tensor, nn

from lors.sharing.initial import INITS

Groups = Union[int, Sequence[int]]


def is_count(value: Any) -> bool:
    """Whether it is a positive whole number, Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value > 0


class Residual(nn.Module):
    """What both residuals have in common.

    Args:
        rank: r, the inner size of every product.
        groups: K, the number of products; one int for all layers or one for each.
        shared, private: whether the first and the second term exist (Table 5).
        init: "own" (the shared weight starts as the first layer's), "paper" or "released": see `initial`.

    Raises:
        ValueError: a value that is not one of these.
    """

    def __init__(
        self, rank: int, groups: Groups = 1, *, shared: bool = True, private: bool = True, init: str = "own"
    ) -> None:
        super().__init__()
        if not is_count(rank):
            raise ValueError(f"rank={rank!r}: must be a positive int")
        if not (shared or private):
            raise ValueError("shared=False, private=False: at least one of the two terms must exist")
        if init not in INITS:
            raise ValueError(f"init={init!r}: must be one of {', '.join(INITS)}")
        self.groups = tuple(groups) if isinstance(groups, Iterable) else groups
        if not all(map(is_count, self.groups if isinstance(groups, Iterable) else (groups,))):
            raise ValueError(f"groups={groups!r}: must be a positive int or one for each layer")
        self.rank, self.has_shared, self.has_private, self.init = int(rank), shared, private, init

    def made_names(self, name: str) -> tuple[str, ...]:
        """The parameters that `weights` makes where the one of this name is shared."""
        return (name,)

    def build(self, layers: Sequence[tuple[nn.Parameter, ...]]) -> Residual:
        """A residual with tensors, for layers with these parameters.

        Raises:
            ValueError: the rank or the groups do not fit.
        """
        built = copy.deepcopy(self)
        built.groups = self.groups if isinstance(self.groups, tuple) else (self.groups,) * len(layers)
        if len(built.groups) != len(layers):
            raise ValueError(f"groups={self.groups}: must be one for all, or {len(layers)} of them")
        with torch.no_grad():
            built._build(*layers[0])
        return built

    def _factors(self, like: Tensor, d: int, h: int, *matrices: int) -> tuple[nn.ParameterList, ...]:
        """B (*matrices, K, d, r) and A (*matrices, K, r, h) of each layer."""
        if self.has_private and self.rank > min(d, h):
            raise ValueError(f"rank={self.rank}: must be at most {min(d, h)}, the shorter side of {d} x {h}")
        groups, r = self.groups if self.has_private else (), self.rank
        B = (nn.Parameter(like.new_empty(*matrices, k, d, r)) for k in groups)
        A = (nn.Parameter(like.new_empty(*matrices, k, r, h)) for k in groups)
        return nn.ParameterList(B), nn.ParameterList(A)
