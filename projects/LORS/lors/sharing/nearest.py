"""The bank that is nearest to trained layers, to start training from.

Layers that were trained on their own share little: often their mean explains no more of their weights than
chance, 1 in N. So this gives no small copy of a model. It gives a start, and says how good it is.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lors.sharing.bank import Model, Residuals, share
from lors.sharing.layers import find_layers, parameters_of
from lors.sharing.residuals import GeneratedLowRank, LowRank

logger = logging.getLogger(__name__)

Term = tuple[Tensor, Tensor, Tensor]  # a Tucker-2 form: B (g, d, r), E (g, r, r, q), A (g, r, h)


class Explained(NamedTuple):
    """How much of one layer's weight, of its sum of squares, is explained: 1 is all."""

    name: str
    layer: int
    together: float  # by the shared weight and the residual
    shared: float  # by the mean of the layers
    alone: float  # by the residual without anything shared


@torch.no_grad()
def factorize(
    model: Model,
    layers: str,
    residual: Residuals,
    only: str | Sequence[str] | None = None,
    *,
    name: str = "bank",
) -> tuple[Model, list[Explained]]:
    """A copy of a trained model whose layers pull from the nearest bank, and how near that is.

    Nearest is meant in the sum of squares of the weights, over all layers. What is not shared, and of what is
    shared the layers' own biases, stays as it is.

    Args:
        layers, residual, only, name: as in `share`.

    Raises:
        ValueError: as `share`; weights that are complex or not finite.
    """
    twin = copy.deepcopy(model)
    bank = share(twin, layers, residual, only, name=name)
    trained = find_layers(model, layers)
    explained = []
    for name, one in bank.residuals().items():
        logger.info("Factorizing %s", name)
        made = parameters_of(trained, name, one.made_names(name))
        if not all(p.isfinite().all() and p.isreal().all() for of_layer in made for p in of_layer):
            raise ValueError(f"{name}: the weights must be real and finite")
        given = [[p.double() for p in of_layer] for of_layer in made]
        fit = _fit_generated if isinstance(one, GeneratedLowRank) else _fit_low_rank
        weights, alone = fit(one, given)
        mean = sum(weights) / len(weights)
        for i, weight in enumerate(weights):
            made = _flat(one.weights(i, torch.float64)).view_as(weight)
            by_rank = alone(i, weight) if one.has_private else torch.zeros_like(weight)
            parts = (_explained(weight, by) for by in (made, mean, by_rank))
            explained.append(Explained(name, i, *parts))
    return twin, explained


def _explained(weight: Tensor, by: Tensor) -> float:
    left = (weight - by).square().sum()
    return 1.0 if left == 0 else (1 - left / weight.square().sum()).item()


def _flat(made: Sequence[Tensor]) -> Tensor:
    """A weight and, behind its columns, the bias that is made with it."""
    weight, *bias = made
    return torch.cat((weight.flatten(1), *(b[:, None] for b in bias)), dim=1)


def _fit_low_rank(
    residual: LowRank, given: Sequence[Sequence[Tensor]]
) -> tuple[list[Tensor], Callable[[int, Tensor], Tensor]]:
    """Fills in a residual; also the weights as matrices, and what their own truncated SVD is."""
    layers = [weight.flatten(1) for (weight,) in given]
    ranks = [min(k * residual.rank, *layers[0].shape) for k in residual.groups]

    def truncated_svd(layer: int, rest: Tensor) -> Tensor:
        U = _leading(rest, ranks[layer])
        return U @ (U.T @ rest)

    shared, private = _share(residual, layers, truncated_svd)
    if residual.has_shared:
        residual.shared.copy_(shared.view(residual.shape))
    for i, (part, r) in enumerate(zip(private, ranks)):
        if residual.has_private:
            U = _leading(part, r)
            A = U.T @ part
            scale = A.norm(dim=1).sqrt()  # B and A alike, which is how training likes them
            A, B = A / scale.clamp(min=1e-12)[:, None], U * scale
            unused = residual.groups[i] * residual.rank - r
            residual.A[i].copy_(F.pad(A, (0, 0, 0, unused)).unflatten(0, (-1, residual.rank)))
            residual.B[i].copy_(F.pad(B, (0, unused)).unflatten(1, (-1, residual.rank)).transpose(0, 1))
    return layers, truncated_svd


def _fit_generated(
    residual: GeneratedLowRank, given: Sequence[Sequence[Tensor]]
) -> tuple[list[Tensor], Callable[[int, Tensor], Tensor]]:
    """The same for weight and bias as one tensor (g, d, h, d_q + 1), whose private part is K forms B E A.

    At first each form is fitted to what those before it leave, and then each in turn to what the others do.
    """
    layers = [_flat(made).view(*residual.shape, -1) for made in given]
    terms: list[list[Term]] = [[] for _ in layers]

    def fit(layer: int, rest: Tensor) -> Tensor:
        left, fitted = rest - sum(map(_product, terms[layer])), []
        for k in range(residual.groups[layer]):
            if terms[layer]:
                left = left + _product(terms[layer][k])
            fitted.append(_tucker(left, residual.rank, *terms[layer][k : k + 1]))
            left = left - _product(fitted[-1])
        terms[layer] = fitted
        return rest - left

    def alone(layer: int, weight: Tensor) -> Tensor:
        terms[layer] = []
        return fit(layer, weight)

    shared, _ = _share(residual, layers, fit)
    if residual.has_private:
        for i, known in enumerate(terms):
            B, E, A = (torch.stack(factor, dim=1) for factor in zip(*known))
            residual.B[i].copy_(B)
            residual.A[i].copy_(A)
            residual.E[i].weight.copy_(E[..., :-1].flatten(0, 3))
            residual.E[i].bias.copy_(E[..., -1].flatten())
    if residual.has_shared:
        residual.shared.copy_(shared[..., :-1].flatten(0, 2))
        residual.shared_bias.copy_(shared[..., -1].flatten())
    return layers, alone


def _share(
    residual: LowRank | GeneratedLowRank,
    layers: Sequence[Tensor],
    approximate: Callable[[int, Tensor], Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Layers as one shared tensor and, for each, a private one of the kind that `approximate` finds.

    In turn, a private one approximates what shared leaves, and shared is the mean of what the private ones
    leave. No turn makes the error larger; they end when it is all gone or hardly falls any more.
    """
    shared = mean = sum(layers) / len(layers)
    if not residual.has_private:
        return mean, []
    if not residual.has_shared:
        return torch.zeros_like(mean), [approximate(i, layer) for i, layer in enumerate(layers)]
    total = sum((layer - mean).square().sum() for layer in layers)
    error = math.inf
    for _ in range(200):
        private = [approximate(i, layer - shared) for i, layer in enumerate(layers)]
        shared = sum(layer - part for layer, part in zip(layers, private)) / len(layers)
        before = error
        error = sum((layer - shared - part).square().sum() for layer, part in zip(layers, private))
        if error <= 1e-12 * total or error > 0.998 * before:
            break
    return shared, private


def _leading(matrices: Tensor, rank: int) -> Tensor:
    """(..., m, n) -> (..., m, rank), the left singular vectors of the largest singular values."""
    return torch.linalg.eigh(matrices @ matrices.mT)[1][..., matrices.shape[-2] - rank :]


def _rows(tensor: Tensor, rank: int) -> Tensor:
    """(g, d, h, q) -> A (g, rank, h), whose rows span most of the tensor's h side."""
    return _leading(tensor.transpose(1, 2).flatten(2), rank).mT


def _tucker(tensor: Tensor, rank: int, before: Term | None = None) -> Term:
    """One step of higher-order orthogonal iteration from `before`: a form for a tensor (g, d, h, q)."""
    A = _rows(tensor, rank) if before is None else before[2]
    B = _leading((A[:, None] @ tensor).flatten(2), rank)
    left = (B.mT @ tensor.flatten(2)).unflatten(2, tensor.shape[2:])
    A = _rows(left, rank)
    return B, A[:, None] @ left, A


def _product(term: Term) -> Tensor:
    """B (g, d, r), E (g, r, r, q), A (g, r, h) -> (g, d, h, q)."""
    B, E, A = term
    EA = A.mT[:, None] @ E
    return (B @ EA.flatten(2)).unflatten(2, EA.shape[2:])
