"""Adaptive mixing against equations 4 and 6."""

from __future__ import annotations

import pytest
import torch

from lors.adamixer.mixing import adaptive_mixing
from oracle import literal_mixing


@pytest.mark.parametrize(
    "B, L, g, P_in, P_out, C", [(2, 3, 2, 4, 5, 6), (1, 1, 1, 1, 2, 3), (1, 2, 4, 9, 3, 2)]
)
def test_mixing_is_the_papers_equations(B, L, g, P_in, P_out, C):
    x, channel, spatial = (
        torch.randn(B, L, g, *shape, dtype=torch.float64, requires_grad=True)
        for shape in ((P_in, C), (C, C), (P_in, P_out))
    )
    ours, theirs = (mix(x, channel, spatial) for mix in (adaptive_mixing, literal_mixing))
    assert ours.shape == (B, L, g * P_out * C)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    chosen = torch.randn_like(ours)
    inputs = [x, channel, spatial]
    for our, their in zip(*(torch.autograd.grad((y * chosen).sum(), inputs) for y in (ours, theirs))):
        torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-8)


def test_a_group_is_mixed_from_its_own_samples_alone():
    x, channel, spatial = (
        torch.randn(1, 1, 2, 4, 3),
        torch.randn(1, 1, 2, 3, 3),
        torch.randn(1, 1, 2, 4, 5),
    )
    before = adaptive_mixing(x, channel, spatial).unflatten(-1, (2, 5, 3))
    x[:, :, 1] += torch.randn(4, 3)
    after = adaptive_mixing(x, channel, spatial).unflatten(-1, (2, 5, 3))
    assert torch.equal(before[:, :, 0], after[:, :, 0])
    assert not torch.equal(before[:, :, 1], after[:, :, 1])


def test_training_keeps_no_more_than_is_given():
    given = [torch.randn(1, 3, 2, *shape, requires_grad=True) for shape in ((4, 6), (6, 6), (4, 5))]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        adaptive_mixing(*given)
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in given}
