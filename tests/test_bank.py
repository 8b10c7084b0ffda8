"""A bank's three parts fit together, or the one that does not is named."""

from __future__ import annotations

import pytest
import torch

from lors.bank import ParameterBank
from lors.stack import DenseGenerator, DenseLinear, LORSGenerator, LORSLinear

N, DIM, G, C, P_IN, P_OUT = 3, 8, 2, 4, 5, 6


def dense(channel=(N, DIM, (G, C, C)), spatial=(N, DIM, (G, P_IN, P_OUT)), output=(N, G * P_OUT * C, DIM)):
    return DenseGenerator(*channel), DenseGenerator(*spatial), DenseLinear(*output)


def lors(channel=(N, DIM, (G, C, C)), spatial=(N, DIM, (G, P_IN, P_OUT)), output=(N, G * P_OUT * C, DIM)):
    return (
        LORSGenerator(*channel, rank=2, groups=[1, 2, 3]),
        LORSGenerator(*spatial, rank=2, groups=[1, 2, 3]),
        LORSLinear(*output, rank=2),
    )


# The four rows of Table 4 (adaptive, static), and one generator alone.
@pytest.mark.parametrize(
    "chosen",
    [
        "dense dense dense",
        "lors lors dense",
        "dense dense lors",
        "lors lors lors",
        "dense lors lors",
    ],
)
def test_any_mixture_of_dense_and_lors_is_a_bank(chosen):
    made = {"dense": dense(), "lors": lors()}
    bank = ParameterBank(*(made[name][i] for i, name in enumerate(chosen.split())))
    assert (bank.num_stages, bank.query_dim, bank.groups, bank.channels) == (N, DIM, G, C)
    assert (bank.points_in, bank.points_out) == (P_IN, P_OUT)
    query = torch.randn(2, 7, DIM)
    for layer in range(N):
        assert bank.channel(query, layer).shape == (2, 7, G, C, C)
        assert bank.spatial(query, layer).shape == (2, 7, G, P_IN, P_OUT)
        assert bank.output(torch.randn(2, 7, G * P_OUT * C), layer).shape == (2, 7, DIM)


@pytest.mark.parametrize("parts", [dense, lors])
@pytest.mark.parametrize(
    "wrong, name, value, wanted",
    [
        (dict(channel=(N, DIM, (G, C, 3))), "channel.shape", r"\(2, 4, 3\)", r"\(2, 4, 4\)"),
        (dict(spatial=(N, DIM, (3, P_IN, P_OUT))), r"spatial.shape\[0\]", "3", "2"),
        (dict(spatial=(N, 9, (G, P_IN, P_OUT))), "spatial.query_dim", "9", "8"),
        (dict(output=(N, 49, DIM)), "output.in_features", "49", "48"),
        (dict(output=(N, G * P_OUT * C, 9)), "output.out_features", "9", "8"),
    ],
)
def test_a_part_that_does_not_fit_is_named(parts, wrong, name, value, wanted):
    with pytest.raises(ValueError, match=f"^{name}={value}: must be {wanted} "):
        ParameterBank(*parts(**wrong))


@pytest.mark.parametrize("part, name", [(1, "spatial.num_layers"), (2, "output.num_layers")])
def test_parts_of_other_depths_do_not_fit(part, name):
    parts = list(dense())
    parts[part] = DenseGenerator(2, DIM, (G, P_IN, P_OUT)) if part == 1 else DenseLinear(2, 48, DIM)
    with pytest.raises(ValueError, match=f"^{name}=2: must be 3 "):
        ParameterBank(*parts)
