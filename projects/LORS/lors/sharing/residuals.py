"""What a layer adds to the weight that it shares (Li et al., CVPR 2024, section 3).

==================  ==============================================  =======================
residual            weight of layer i                               paper
==================  ==============================================  =======================
`LowRank`           W_i    = W_shared    + sum_k B_ik A_ik          LORS^T, equations 7, 8
`GeneratedLowRank`  M_i(q) = M_shared(q) + sum_k B_ik E_ik(q) A_ik  LORS^A, equations 9-12
==================  ==============================================  =======================

What a user makes is a recipe without tensors, from which a bank builds one residual for each weight of the
stack. `weights(i)` composes what layer i pulls, in `dtype` or the parameters' own, whatever autocast says.
`linear(x, i)` applies it as nn.Linear does, and composes nothing where that is fewer operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lors.sharing.initial import start_generated, start_low_rank
from lors.sharing.recipe import Groups, Residual, is_count


class LowRank(Residual):
    """LORS^T, for any weight of two or more dimensions, seen as a matrix d x h; B (K, d, r), A (K, r, h)."""

    def _build(self, weight: nn.Parameter) -> None:
        self.shape, d, h = weight.shape, len(weight), weight[0].numel()
        self.shared = _like(weight) if self.has_shared else None
        self.B, self.A = self._factors(weight, d, h)
        start_low_rank(self.init, self.shared, self.B, self.A)

    def weights(self, layer: int, dtype: torch.dtype | None = None) -> tuple[Tensor]:
        """W_i, of the weight's own shape."""
        if not self.has_private:
            return (self.shared.to(dtype=dtype),)
        B, A = (factor.to(dtype=dtype) for factor in self._products(layer))
        with _own_precision(B):
            W = torch.addmm(self.shared.to(dtype=dtype).flatten(1), B, A) if self.has_shared else B @ A
        return (W.view(self.shape),)

    def linear(self, x: Tensor, layer: int, bias: Tensor | None = None) -> Tensor:
        """(..., h) -> (..., d)."""
        d, h = self.shape
        if not self.has_private or (self.has_shared and _many(x, d * h / (d + h))):
            return F.linear(x, *self.weights(layer), bias)
        B, A = self._products(layer)
        if not self.has_shared:
            return F.linear(F.linear(x, A), B, bias)
        return F.linear(x, self.shared, bias) + F.linear(F.linear(x, A), B)

    def _products(self, layer: int) -> tuple[Tensor, Tensor]:
        """(d, K r) and (K r, h): the sum over k is their product."""
        return self.B[layer].transpose(0, 1).flatten(1), self.A[layer].flatten(0, 1)


class GeneratedLowRank(Residual):
    """LORS^A, for a Linear that makes g matrices M (d, h) of a query q; B (g, K, d, r), A (g, K, r, h).

    E is a Linear from q to the g K matrices (r, r). All is linear in q, so layer i is one Linear still, whose
    weight and bias it pulls.

    Args:
        shape: (g, d, h); the Linear has g d h outputs and a bias.
        rank, groups, choices: as in `Residual`.

    Raises:
        ValueError: a shape that is not three positive ints.
    """

    def __init__(self, shape: Sequence[int], rank: int, groups: Groups = 1, **choices: bool | str) -> None:
        super().__init__(rank, groups, **choices)
        if not isinstance(shape, Sequence) or len(shape) != 3 or not all(map(is_count, shape)):
            raise ValueError(f"shape={shape}: must be (g, d, h), three positive ints")
        self.shape = tuple(map(int, shape))

    def made_names(self, name: str) -> tuple[str, ...]:
        return (name, name.removesuffix("weight") + "bias")

    def _build(self, weight: nn.Parameter, bias: nn.Parameter) -> None:
        g, d, h = self.shape
        if weight.dim() != 2 or len(weight) != g * d * h:
            raise ValueError(f"shape={self.shape}: has no place in a weight of {tuple(weight.shape)}")
        self.shared, self.shared_bias = (_like(p) if self.has_shared else None for p in (weight, bias))
        self.B, self.A = self._factors(weight, d, h, g)
        sizes = [A[..., 0].numel() * self.rank for A in self.A]
        self.E = nn.ModuleList(nn.Linear(weight.shape[1], size).to(weight) for size in sizes)
        start_generated(self.init, self.shared, self.B, self.A, self.E)

    def weights(self, layer: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Weight (g d h, d_q) and bias (g d h)."""
        shared = [p.to(dtype=dtype) for p in (self.shared, self.shared_bias)] if self.has_shared else None
        if not self.has_private:
            return tuple(shared)
        (g, d, h), r = self.shape, self.rank
        B, A = (factor.to(dtype=dtype) for factor in (self.B[layer], self.A[layer]))
        with _own_precision(A):
            # The last dimension of the weight is that of q, as it is of E. So B E is made first, and A^T is
            # multiplied with it from the left: nothing has to be transposed.
            BE, Be = (
                (B @ E.to(A).view(g, -1, r, E[0].numel() * r)).unflatten(-1, (r, -1)).transpose(1, 2)
                for E in self.E[layer].parameters()
            )
            A, Be = A.flatten(1, 2), Be.reshape(g, d, -1)
            A_each = A.mT[:, None].expand(-1, d, -1, -1).flatten(0, 1)
            BE = BE.reshape(g * d, A.shape[1], -1)
            if shared:
                weight = torch.baddbmm(shared[0].view(g * d, h, -1), A_each, BE)
                bias = torch.baddbmm(shared[1].view(g, d, h), Be, A)
            else:
                weight, bias = A_each @ BE, Be @ A
        return weight.view(g * d * h, -1), bias.flatten()

    def linear(self, q: Tensor, layer: int, bias: None = None) -> Tensor:
        """(..., d_q) -> (..., g d h)."""
        if not self.has_private or _many(q, q.shape[-1]):
            return F.linear(q, *self.weights(layer))
        (g, d, h), r, n = self.shape, self.rank, q.numel() // q.shape[-1]
        # The queries stand beside the columns of E and then of A, so that B and A are not copied for each.
        B, A = self.B[layer].transpose(1, 2).flatten(2), self.A[layer].flatten(0, 1)
        E = self.E[layer](q).view(n, len(A), r, r).permute(1, 2, 0, 3).flatten(1, 2)
        EA = (E @ A).view(g, B.shape[2], n * h)
        M = (B @ EA).view(g, d, n, h).permute(2, 0, 1, 3)
        if self.has_shared:
            M = F.linear(q, self.shared, self.shared_bias).view(n, g, d, h) + M
        return M.reshape(*q.shape[:-1], g * d * h)


def _many(x: Tensor, composing: float) -> bool:
    """Whether composing the weight is faster for the rows of x; it takes the operations of `composing` rows.

    It passes over memory less often, so it is faster from about three quarters of those rows on. Where the
    number of rows is open, as in `torch.export`, a composed weight serves every number.
    """
    rows = x.numel() // x.shape[-1]
    return isinstance(rows, torch.SymInt) or rows > 0.75 * composing


def _own_precision(tensor: Tensor) -> AbstractContextManager:
    """Autocast off, which the meta device does not have."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def _like(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
