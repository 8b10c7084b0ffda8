"""Factorizing: nearly exact where the rank is enough, the nearest where it is not; the table says which."""

from __future__ import annotations

import copy

import pytest
import torch
from stacks import STACKS, Stack, linears, run, same
from torch import Tensor, nn

from lors.sharing import GeneratedLowRank, LowRank, factorize, merge, share
from lors.sharing.residuals import Residual


def planted(d: int, h: int, recipe: Residual, fall: float = 0.0) -> nn.Module:
    """Plain layers that are exactly what a bank of this kind makes.

    With a fall the spectra are as training leaves them, else flat.
    """
    model = linears(d, h, 6)
    residual = share(model, "layers", recipe).residuals()["weight"]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    curve = torch.logspace(0, -fall, recipe.rank)
    for A, B in zip(residual.A, residual.B):
        A.data.mul_(curve[:, None])
        B.data.mul_(curve)
    for E in getattr(residual, "E", ()):
        E.weight.data.mul_(torch.logspace(0, -fall, h))
    return merge(model)


def as_matrix(layer: nn.Module) -> Tensor:
    return torch.cat((layer.weight.flatten(1), layer.bias[:, None]), dim=1).detach()


def distances(model: nn.Module, other: nn.Module) -> list[float]:
    """Of each layer, against its norm."""
    pairs = ((as_matrix(a), as_matrix(b)) for a, b in zip(model.layers, other.layers))
    return [((a - b).norm() / a.norm()).item() for a, b in pairs]


MIXED = (1, 1, 2, 2, 3, 3)


@pytest.mark.parametrize(
    "sizes, recipe, fall, tolerance",
    [
        ((40, 100), LowRank(4), 0, 1e-3),
        ((40, 100), LowRank(4, MIXED), 0, 1e-3),
        ((100, 40), LowRank(4, MIXED), 0, 1e-3),
        ((48, 200), LowRank(8, (1, 1, 2, 2, 1, 1)), 1.3, 1e-2),
        ((768, 32), GeneratedLowRank((2, 16, 24), 4), 0, 1e-3),
        ((768, 32), GeneratedLowRank((2, 16, 24), 4, MIXED), 0, 0.12),
        ((768, 32), GeneratedLowRank((2, 16, 24), 4, (2, 1, 3, 1, 2, 2)), 0, 0.12),
        ((2048, 64), GeneratedLowRank((2, 32, 32), 8, MIXED), 1.3, 1e-2),
        ((1536, 64), GeneratedLowRank((2, 16, 48), 8, MIXED), 1.3, 1e-2),
        ((640, 64), GeneratedLowRank((1, 40, 16), 8, MIXED), 1.3, 1e-2),
    ],
)
def test_what_a_bank_made_is_found_again(sizes, recipe, fall, tolerance):
    torch.manual_seed(0)
    model = planted(*sizes, recipe, fall)
    before = copy.deepcopy(model.state_dict())
    twin, explained = factorize(model, "layers", recipe)
    assert max(distances(model, twin)) < tolerance
    assert (
        min(row.together for row in explained) > 1 - 2 * tolerance**2 > max(row.shared for row in explained)
    )
    residual = twin.bank.residuals()["weight"]
    assert residual.groups == (recipe.groups if isinstance(recipe.groups, tuple) else (recipe.groups,) * 6)
    if isinstance(recipe, LowRank):  # training likes factors of one scale
        for A, B in zip(residual.A, residual.B):
            same(A.norm(), B.norm(), 1e-4)
    same(model.state_dict(), before, 0)


def test_a_known_spectrum_is_cut_within_a_percent_of_the_best():
    # Five large singular values and a tail, beside a shared weight that is known too.
    torch.manual_seed(0)
    values = torch.cat((torch.full((5,), 2.0), 0.1 * 0.9 ** torch.arange(35.0)))
    model, shared = linears(40, 60, 6), torch.randn(40, 60)
    for layer in model.layers:
        U, V = torch.linalg.qr(torch.randn(40, 40))[0], torch.linalg.qr(torch.randn(60, 40))[0]
        layer.weight.data = shared + (U * values) @ V.T
    twin, _ = factorize(model, "layers", LowRank(5))
    error = sum((a.weight - b.weight).square().sum() for a, b in zip(model.layers, twin.layers))
    assert error.sqrt() <= 1.01 * (6 * values[5:].square().sum()).sqrt()


UNLIKE = [
    (LowRank(3), (12, 20)),
    (LowRank(3, 2), (20, 12)),
    (GeneratedLowRank((1, 12, 16), 3), (192, 8)),
    (GeneratedLowRank((1, 12, 16), 3, 4), (192, 8)),
]


@pytest.mark.parametrize("recipe, sizes", UNLIKE)
def test_layers_that_share_nothing_are_nearer_than_to_their_mean(recipe, sizes):
    torch.manual_seed(0)
    model = linears(*sizes, 6)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    twin, explained = factorize(model, "layers", recipe)
    mean = sum(layer.weight for layer in model.layers) / 6
    for row, layer, distance in zip(explained, model.layers, distances(model, twin)):
        assert row.shared < row.together < 1 and 0 < row.alone < 1
        if isinstance(recipe, LowRank):
            whole = layer.weight.square().sum()
            same(row.shared, 1 - ((layer.weight - mean).square().sum() / whole).item(), 1e-5)
            best = torch.linalg.svdvals(layer.weight)[: recipe.rank * recipe.groups].square().sum() / whole
            same(row.alone, best.item(), 1e-5)
        else:  # where weight and bias are one
            same(row.together, 1 - distance**2, 1e-5)


@pytest.mark.parametrize("d, h, rank", [(12, 20, 6), (8, 8, 4)])
def test_the_steps_are_taken_to_their_end(d, h, rank):
    torch.manual_seed(0)
    model = linears(d, h)
    weights = torch.stack([layer.weight.detach() for layer in model.layers])
    shared = weights.mean(dim=0)
    for _ in range(200):
        U, S, V = torch.linalg.svd(weights - shared, full_matrices=False)
        private = (U * S[:, None])[..., :rank] @ V[:, :rank]
        shared = (weights - private).mean(dim=0)
    twin, _ = factorize(model, "layers", LowRank(rank))
    ours = torch.stack([layer.weight for layer in twin.layers])
    assert (weights - ours).norm() < 1.01 * (weights - shared - private).norm()


def test_terms_that_overlap_still_fit():
    # 3 of rank 4 in 8 rows: they can make any weight, and here do.
    torch.manual_seed(0)
    model = linears(96, 5, layers=2)
    assert max(distances(model, factorize(model, "layers", GeneratedLowRank((1, 8, 12), 4, 3))[0])) < 0.3
    model = linears(8, 12, layers=2)
    assert max(distances(model, factorize(model, "layers", LowRank(4, 3))[0])) < 1e-3


@pytest.mark.parametrize("recipe, sizes", UNLIKE)
def test_layers_that_are_one_and_the_same(recipe, sizes):
    model = linears(*sizes, 6)
    for layer in model.layers:
        layer.load_state_dict(model.layers[0].state_dict())
    twin, explained = factorize(model, "layers", recipe)
    assert max(distances(model, twin)) < 1e-5
    same([(row.together, row.shared) for row in explained], [(1.0, 1.0)] * 6, 1e-6)


@pytest.mark.parametrize("recipe, sizes", UNLIKE)
def test_without_one_term_the_other_is_the_best_it_can_be(recipe, sizes):
    model = linears(*sizes, 6)
    for terms in (dict(shared=False), dict(private=False)):
        arguments = dict(rank=recipe.rank, **terms)
        one = LowRank(**arguments) if isinstance(recipe, LowRank) else None
        one = one or GeneratedLowRank(recipe.shape, **arguments)
        for row in factorize(model, "layers", one)[1]:
            same(row.together, row.shared if "private" in terms else row.alone, 1e-5)


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
def test_any_stack_is_factorized(stack: Stack):
    model = stack.plain()
    before = run(model, stack)
    twin, explained = factorize(model, stack.layers, LowRank(2))
    layers = len(stack.names(model))
    assert {row.layer for row in explained} == set(range(layers)) and len(explained) % layers == 0
    for row in explained:
        assert -1e-9 <= row.shared <= row.together + 1e-9 <= 1 + 2e-9 and 0 <= row.alone <= 1
    again = stack.plain()
    share(again, stack.layers, LowRank(2))
    again.load_state_dict(twin.state_dict())
    same(run(again, stack), run(twin, stack))
    same(run(model, stack), before, 0)
    first = model.get_submodule(stack.names(model)[0])
    matrices = {name: p.flatten(1) for name, p in first.named_parameters() if p.dim() > 1}
    whole_ranks = {name: LowRank(min(matrix.shape)) for name, matrix in matrices.items()}
    whole, explained = factorize(model, stack.layers, whole_ranks)
    same(run(whole, stack), before, 1e-6)
    assert min(row.together for row in explained) > 1 - 1e-9
    same(run(merge(whole), stack), before, 1e-6)


def test_two_stacks_of_one_model_and_a_stack_that_pulls_already():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = linears(4, 4).layers, linears(4, 4).layers

    twin, _ = factorize(factorize(Both(), "one", LowRank(1))[0], "two", LowRank(1), name="second")
    assert {name.split(".")[0] for name in twin.state_dict()} == {"one", "two", "bank", "second"}
    with pytest.raises(ValueError, match="pulls"):
        factorize(twin, "one", LowRank(1), name="third")


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, 1j])
def test_weights_that_are_no_real_numbers_are_refused(wrong):
    model = linears(4, 4).to(torch.complex64 if wrong == 1j else torch.float32)
    with torch.no_grad():
        model.layers[1].weight[0, 0] = wrong
    with pytest.raises(ValueError, match="weight"):
        factorize(model, "layers", LowRank(1))


def test_a_layer_of_zeros_is_not_explained_by_another():
    model = linears(6, 6, 3)
    nn.init.zeros_(model.layers[0].weight)
    _, explained = factorize(model, "layers", LowRank(1))
    assert explained[0].together < 0 and explained[0].shared < 0
    for layer in model.layers:
        nn.init.zeros_(layer.weight)
    _, explained = factorize(model, "layers", LowRank(1))
    assert all((row.together, row.shared, row.alone) == (1, 1, 1) for row in explained)
