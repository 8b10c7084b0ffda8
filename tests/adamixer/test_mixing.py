"""Adaptive mixing against equations 4 and 6."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lors.adamixer.mixing import AdaptiveMixing
from oracle import is_uniform, literal_mixing

DIM = 7


@pytest.mark.parametrize(
    "B, L, g, P_in, P_out, C", [(2, 3, 2, 4, 5, 6), (1, 1, 1, 1, 2, 3), (1, 2, 4, 9, 3, 2)]
)
def test_mixing_is_the_papers_equations(B, L, g, P_in, P_out, C):
    mixing = AdaptiveMixing(DIM, g, C, P_in, P_out).double()
    for parameter in mixing.parameters():
        nn.init.normal_(parameter)
    x, query = (
        torch.randn(B, L, *shape, dtype=torch.float64, requires_grad=True) for shape in ((g, P_in, C), (DIM,))
    )
    made = [
        (query @ linear.weight.T + linear.bias).view(B, L, g, *shape)
        for linear, shape in ((mixing.channel, (C, C)), (mixing.spatial, (P_in, P_out)))
    ]
    mixed = literal_mixing(x, *made)
    assert mixed.shape == (B, L, g * P_out * C)
    ours, theirs = mixing(x, query), mixed @ mixing.output.weight.T + mixing.output.bias
    assert ours.shape == (B, L, DIM)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    chosen = torch.randn_like(ours)
    inputs = [x, query, *mixing.parameters()]
    for our, their in zip(*(torch.autograd.grad((y * chosen).sum(), inputs) for y in (ours, theirs))):
        torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-8)


def test_a_group_is_mixed_from_its_own_samples_alone():
    mixing = AdaptiveMixing(DIM, 2, 3, 4, 5)
    for parameter in mixing.parameters():
        nn.init.normal_(parameter)
    mixing.output = nn.Identity()
    x, query = torch.randn(1, 1, 2, 4, 3), torch.randn(1, 1, DIM)
    before = mixing(x, query).unflatten(-1, (2, 5, 3))
    x[:, :, 1] += torch.randn(4, 3)
    after = mixing(x, query).unflatten(-1, (2, 5, 3))
    assert torch.equal(before[:, :, 0], after[:, :, 0])
    assert not torch.equal(before[:, :, 1], after[:, :, 1])


def test_what_is_given_is_not_changed():
    mixing = AdaptiveMixing(DIM, 2, 3, 4, 5)
    x, query = torch.randn(1, 6, 2, 4, 3), torch.randn(1, 6, DIM)
    given = x.clone(), query.clone()
    mixing(x, query)
    assert torch.equal(x, given[0]) and torch.equal(query, given[1])


def test_initial_values():
    mixing = AdaptiveMixing(query_dim=24, groups=4, channels=20, points_in=20, points_out=30)
    for generator in (mixing.channel, mixing.spatial):
        assert not generator.weight.any()
        is_uniform(generator.bias, 1 / math.sqrt(24))
    is_uniform(mixing.output.weight, math.sqrt(6 / (4 * 20 * 30 + 24)))
