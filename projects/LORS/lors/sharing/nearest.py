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
from lors.sharing.tucker import Term, fit_in_turn, leading, product, rows, separate, tucker

logger = logging.getLogger(__name__)


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
        ValueError: as `share`.
    """
    twin = copy.deepcopy(model)
    bank = share(twin, layers, residual, only, name=name)
    trained = find_layers(model, layers)
    explained = []
    for name, one in bank.residuals().items():
        logger.info("Factorizing %s", name)
        given = [[p.double() for p in made] for made in parameters_of(trained, name, one.made_names(name))]
        fit = _fit_generated if isinstance(one, GeneratedLowRank) else _fit_low_rank
        weights, alone = fit(one, given)
        mean = sum(weights) / len(weights)
        for i, weight in enumerate(weights):
            made = _flat(one.weights(i, torch.float64)).view_as(weight)
            explained.append(
                Explained(name, i, *(_explained(weight, by) for by in (made, mean, alone(i, weight))))
            )
    return twin, explained


def _explained(weight: Tensor, by: Tensor) -> float:
    total = weight.square().sum()
    return 1.0 if total == 0 else (1 - (weight - by).square().sum() / total).item()


def _flat(made: Sequence[Tensor]) -> Tensor:
    """A weight and, behind its columns, the bias that is made with it."""
    weight, *bias = made
    return torch.cat((weight.flatten(1), *(b[:, None] for b in bias)), dim=1)


def _fit_low_rank(
    residual: LowRank, given: Sequence[Sequence[Tensor]]
) -> tuple[list[Tensor], Callable[[int, Tensor], Tensor]]:
    """Fills in a residual; also the weights as matrices, and what their own truncated SVD is."""
    layers = [weight.flatten(1) for (weight,) in given]
    d, h = layers[0].shape
    ranks = [min(k * residual.rank, d, h) if residual.has_private else 0 for k in residual.groups]

    def truncated_svd(layer: int, rest: Tensor) -> Tensor:
        U = leading(rest, ranks[layer])
        return U @ (U.T @ rest)

    shared, private = _share(residual, layers, truncated_svd, ranks, side=0 if d <= h else 1)
    if residual.has_shared:
        residual.shared.copy_(shared.view(residual.shape))
    for i, (part, r) in enumerate(zip(private, ranks)):
        if residual.has_private:
            U = leading(part, r)
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
    """The same for weight and bias as one tensor (g, d, h, d_q + 1).

    A private part is a sum over k of Tucker-2 forms B E A. First it is one form of inner size K r, then that
    is separated into K of inner size r, which are fitted in turn to what the others leave.
    """
    layers = [_flat(made).view(*residual.shape, -1) for made in given]
    _, d, h = residual.shape
    ranks = [k * residual.rank if residual.has_private else 0 for k in residual.groups]
    terms: list[list[Term]] = [[] for _ in layers]

    def one_form(layer: int, rest: Tensor) -> Tensor:
        if not ranks[layer]:
            return torch.zeros_like(rest)
        A = terms[layer][0][2] if terms[layer] else rows(rest, min(ranks[layer], h))
        terms[layer] = [tucker(rest, A, min(ranks[layer], d))]
        return product(terms[layer][0])

    def in_turn(layer: int, rest: Tensor) -> Tensor:
        terms[layer] = fit_in_turn(rest, terms[layer])
        return sum(map(product, terms[layer]))

    def alone(layer: int, weight: Tensor) -> Tensor:
        if not ranks[layer]:
            return torch.zeros_like(weight)
        return product(tucker(weight, rows(weight, min(ranks[layer], h)), min(ranks[layer], d)))

    # Here on the longer side, where more ranks fit.
    shared, _ = _share(residual, layers, one_form, ranks, side=1 if d >= h else 2)
    if residual.has_private:
        if max(residual.groups) > 1:
            terms = [separate(known[0], k, residual.rank) for known, k in zip(terms, residual.groups)]
            shared, _ = _share(residual, layers, in_turn, ranks, shared=shared)
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
    ranks: Sequence[int],
    side: int = 0,
    shared: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Layers as one shared tensor and, for each, a private one of the kind that `approximate` finds.

    In turn, a private one approximates what shared leaves, and shared is the mean of what the private ones
    leave. No turn makes the error larger; they end when it is all gone or hardly falls any more.
    """
    mean = sum(layers) / len(layers)
    if not residual.has_shared:
        return torch.zeros_like(mean), [approximate(i, layer) for i, layer in enumerate(layers)]
    if shared is None:
        shared = _guess_shared(layers, ranks, side)
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


def _guess_shared(tensors: Sequence[Tensor], ranks: Sequence[int], side: int) -> Tensor:
    """What layers share if each is that and a private part of rank r_i along `side`; else often their mean.

    The columns of layer i's part lie in the column space of its difference from any other layer, and they
    are all that these spaces have in common as long as r_i + r_j + r_k is at most the side. Outside them a
    layer is what is shared. Of that and the mean it is the one that leaves less beyond the ranks.
    """
    batch = tensors[0].dim() > 2  # of the g matrices
    turned = [tensor.movedim(side, int(batch)) for tensor in tensors]
    layers = [tensor.flatten(1 + batch) for tensor in turned]
    identity = torch.eye(layers[0].shape[-2]).to(layers[0])
    weight, outside = torch.zeros_like(identity), torch.zeros_like(layers[0])
    for i, layer in enumerate(layers):
        others = [j for j in range(len(layers)) if j != i]
        if len(others) > 1 and ranks[i] + sum(sorted(ranks[j] for j in others)[:2]) <= len(identity):
            spaces = [leading(layer - layers[j], min(ranks[i] + ranks[j], len(identity))) for j in others]
            private = leading(sum(space @ space.mT for space in spaces), ranks[i])
            projection = identity - private @ private.mT
            weight, outside = weight + projection, outside + projection @ layer

    def beyond(shared: Tensor) -> Tensor:
        rests = [layer - shared for layer in layers]
        values = [torch.linalg.eigvalsh(rest @ rest.mT) for rest in rests]
        return sum(value[..., : max(len(identity) - r, 0)].sum() for value, r in zip(values, ranks))

    mean = sum(layers) / len(layers)
    guess = min(mean, torch.linalg.pinv(weight, hermitian=True) @ outside, key=beyond)
    return guess.view_as(turned[0]).movedim(int(batch), side)
