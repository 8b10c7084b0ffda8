"""Tensors as sums of Tucker-2 forms, sum_k B_k E_k A_k: higher-order SVD and alternating steps (HOOI)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Term = tuple[Tensor, Tensor, Tensor]  # B (g, d, r), E (g, r, r, q), A (g, r, h)


def leading(matrices: Tensor, rank: int) -> Tensor:
    """(..., m, n) -> (..., m, rank), the left singular vectors of the largest singular values."""
    return torch.linalg.eigh(matrices @ matrices.mT)[1][..., matrices.shape[-2] - rank :]


def rows(tensor: Tensor, rank: int) -> Tensor:
    """(g, d, h, q) -> A (g, rank, h), whose rows span most of the tensor's h side."""
    return leading(tensor.transpose(1, 2).flatten(2), rank).mT


def tucker(tensor: Tensor, A: Tensor, rank: int) -> Term:
    """A better B (g, d, rank), E and A (HOOI) for a tensor (g, d, h, q) and A (g, r, h)."""
    B = leading((A[:, None] @ tensor).flatten(2), rank)
    left = (B.mT @ tensor.flatten(2)).unflatten(2, tensor.shape[2:])
    A = rows(left, A.shape[1])
    return B, A[:, None] @ left, A


def product(term: Term) -> Tensor:
    """B (g, d, r), E (g, r, r, q), A (g, r, h) -> (g, d, h, q)."""
    B, E, A = term
    EA = A.mT[:, None] @ E
    return (B @ EA.flatten(2)).unflatten(2, EA.shape[2:])


def fit_in_turn(tensor: Tensor, terms: Sequence[Term]) -> list[Term]:
    """Better terms for a sum of them, each for what the others leave of the tensor."""
    left = tensor - sum(map(product, terms))
    fitted = []
    for term in terms:
        left = left + product(term)
        fitted.append(tucker(left, term[2], term[0].shape[2]))
        left = left - product(fitted[-1])
    return fitted


def _one_by_one(left: Tensor, groups: int, rank: int) -> list[Term]:
    """Forms that each fit what those before it leave."""
    terms = []
    for _ in range(groups):
        terms.append(tucker(left, rows(left, rank), rank))
        left = left - product(terms[-1])
    return terms


def separate(term: Term, groups: int, rank: int) -> list[Term]:
    """One form of inner size K r as K of inner size r: exactly, if it is such a sum.

    Such a sum stays one when a side of the tensor is multiplied by an invertible matrix. Where all singular
    values are 1 a few turns find the terms; where they fall off it may take thousands.
    """
    if groups == 1:
        return [term]
    B, E, A = term
    left, white = _whiten(E, 1)
    right, white = _whiten(white, 2)
    query, white = _whiten(white, 3)
    terms = _one_by_one(white, groups, rank)
    for _ in range(30):
        terms = fit_in_turn(white, terms)
    exact = [(B @ left @ b, e @ query.mT[:, None], a @ right.mT @ A) for b, e, a in terms]
    whole = product(term)
    nearest = _one_by_one(whole, groups, rank)
    return min(exact, nearest, key=lambda terms: (whole - sum(map(product, terms))).norm())


def _whiten(tensor: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """L (g, n, k) and a tensor whose singular values along a side are 1, or 0 for noise.

    Its product with L on that side is the tensor (g, ...) that was given.
    """
    turned = tensor.movedim(side, 1)
    U, S, V = torch.linalg.svd(turned.flatten(2), full_matrices=False)
    V = V * (S > 1e-6 * S[:, :1])[..., None]
    return U * S[:, None], V.unflatten(2, turned.shape[2:]).movedim(1, side)
