"""Both residuals against the paper's pseudo-code, its formulas for parameters and its initial values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stacks import linears
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lors.sharing import GeneratedLowRank, LowRank, merge, share
from lors.sharing.residuals import Residual
from oracle import dynamic_fused_weight, is_uniform, non_dynamic_fused_weight

TERMS = [dict(), dict(shared=False), dict(private=False)]
INITS = ["own", "paper", "released"]
# (sizes d and h, rank, groups) and (query, shape, rank, groups), of three layers
LOW_RANKS = [((5, 3), 1, 1), ((4, 7), 4, 2), ((9, 6), 3, [1, 3, 2])]
GENERATED = [(3, (1, 2, 5), 1, 1), (5, (2, 4, 3), 3, 2), (6, (3, 3, 6), 2, [2, 1, 3])]


def shared(model: nn.Module, recipe: Residual) -> Residual:
    """What makes the layers' weights in place of them."""
    return share(model, "layers", recipe).residuals()["weight"]


def randomised(model: nn.Module) -> nn.Module:
    for parameter in model.double().parameters():
        nn.init.normal_(parameter)
    return model


def same(model: nn.Module, x: Tensor, ours: Tensor, theirs: Tensor) -> None:
    """The same values and the same gradients of everything."""
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    chosen, inputs = torch.randn_like(ours), [x, *model.parameters()]
    options = dict(allow_unused=True, retain_graph=True)
    for pair in zip(*(torch.autograd.grad(y, inputs, chosen, **options) for y in (ours, theirs))):
        our, their = (torch.zeros(()) if gradient is None else gradient for gradient in pair)
        torch.testing.assert_close(our, their, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tokens", [1, 2, 40])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("sizes, rank, groups", LOW_RANKS)
def test_low_rank_is_figure_2(sizes, rank, groups, terms, bias, tokens):
    model = linears(*sizes, bias=bias)
    residual = shared(model, LowRank(rank, groups, **terms))
    randomised(model)
    x = torch.randn(tokens, sizes[1], dtype=torch.float64, requires_grad=True)
    for i, layer in enumerate(model.layers):
        W, A, B = x.new_zeros(sizes), x.new_zeros(1, rank, sizes[1]), x.new_zeros(1, sizes[0], rank)
        if terms.get("shared", True):
            W = residual.shared
        if terms.get("private", True):
            A, B = residual.A[i], residual.B[i]
            assert len(A) == len(B) == (groups if isinstance(groups, int) else groups[i])
        weight = non_dynamic_fused_weight(W[None], A, B)
        torch.testing.assert_close(layer.weight, weight, rtol=1e-12, atol=1e-12)
        same(model, x, layer(x), F.linear(x, weight, layer.bias))


@pytest.mark.parametrize("queries", [1, 2, 40])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("query, shape, rank, groups", GENERATED)
def test_generated_low_rank_is_figure_3(query, shape, rank, groups, terms, queries):
    g, d, h = shape
    model = linears(g * d * h, query)
    residual = shared(model, GeneratedLowRank(shape, rank, groups, **terms))
    randomised(model)
    q = torch.randn(queries, query, dtype=torch.float64, requires_grad=True)
    for i, layer in enumerate(model.layers):
        K = groups if isinstance(groups, int) else groups[i]
        A, B = q.new_zeros(g, K, rank, h), q.new_zeros(g, K, d, rank)

        def shared_linear(q):
            if not terms.get("shared", True):
                return q.new_zeros(len(q), g * d * h)
            return q @ residual.shared.T + residual.shared_bias

        def private_linear(q, i=i, K=K):
            if not terms.get("private", True):
                return q.new_zeros(len(q), g * K * rank**2)
            return q @ residual.E[i].weight.T + residual.E[i].bias

        if terms.get("private", True):
            A, B = residual.A[i], residual.B[i]
        expected = dynamic_fused_weight(q, shared_linear, private_linear, A[None], B[None]).flatten(1)
        same(model, q, layer(q), expected)
        same(model, q, F.linear(q, layer.weight, layer.bias), expected)


RECIPES = [
    (LowRank(2, [1, 3]), (7, 5)),
    (LowRank(2, shared=False), (7, 5)),
    (GeneratedLowRank((2, 3, 4), 2, [2, 1]), (24, 5)),
    (GeneratedLowRank((2, 3, 4), 2, shared=False), (24, 5)),
]


@pytest.mark.parametrize("recipe, sizes", RECIPES)
@pytest.mark.parametrize("leading", [(), (0,), (1,), (2, 3), (4, 0, 2), (9, 1, 8)])
def test_any_shape_and_stride_is_read_and_few_and_many_agree(recipe, sizes, leading):
    model = linears(*sizes, layers=2)
    shared(model, recipe)
    randomised(model)
    x = torch.randn(sizes[1], *leading, dtype=torch.float64).movedim(0, -1)
    for layer in model.layers:
        y = layer(x)
        assert y.shape == (*leading, sizes[0])
        one_by_one = [layer(row) for row in x.reshape(-1, sizes[1])] or [y.flatten()]
        torch.testing.assert_close(y.flatten(), torch.cat(one_by_one), rtol=1e-10, atol=1e-10)


def flops(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "recipe, sizes",
    [(LowRank(2, 2), (60, 90)), (GeneratedLowRank((2, 16, 24), 2, 2), (768, 40))],
)
def test_few_tokens_compose_nothing_and_many_compose_once(recipe, sizes):
    model = linears(*sizes)
    shared(model, recipe)
    layer = model.layers[1]
    compose = flops(lambda: layer.weight)
    for tokens, above in ((1, 0), (4000, compose)):
        x = torch.randn(tokens, sizes[1])
        plain = flops(lambda x=x: F.linear(x, torch.empty(sizes)))
        assert above <= flops(lambda x=x: layer(x)) - plain < above + compose


def test_a_weight_that_is_read_often_is_composed_once_a_pass():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.MultiheadAttention(16, 2) for _ in range(2))
    share(model, "layers", LowRank(2))
    attention, x = model.layers[1], torch.randn(3, 4, 16)
    composing = flops(lambda: (attention.in_proj_weight, attention.out_proj.weight))
    merged = merge(model).layers[1]
    assert flops(lambda: attention(x, x, x)) == flops(lambda: merged(x, x, x)) + composing


@pytest.mark.parametrize("init", INITS)
def test_initial_values_of_low_rank(init):
    torch.manual_seed(0)
    model = linears(40, 60)
    first = model.layers[0].weight.detach().clone()
    residual = shared(model, LowRank(10, [1, 2, 3], init=init))
    if init == "own":
        assert torch.equal(residual.shared, first)
    else:
        is_uniform(residual.shared, math.sqrt((6 if init == "paper" else 1) / 60))
    for layer, A, B in zip(model.layers, residual.A, residual.B):
        is_uniform(*((B, math.sqrt(6 / 10)) if init == "paper" else (A, math.sqrt(6 / 60))))
        assert not (A if init == "paper" else B).any()
        assert torch.equal(layer.weight, residual.shared)


@pytest.mark.parametrize("init", INITS)
def test_initial_values_of_generated_low_rank(init):
    torch.manual_seed(0)
    model = linears(4 * 20 * 30, 24)
    weight, bias = (p.detach().clone() for p in model.layers[0].parameters())
    residual = shared(model, GeneratedLowRank((4, 20, 30), 10, [1, 2, 3], init=init))
    assert torch.equal(residual.shared_bias, bias)
    if init == "paper":
        is_uniform(residual.shared, math.sqrt(6 / 24))
    else:
        assert torch.equal(residual.shared, weight if init == "own" else torch.zeros_like(weight))
    for layer, A, B, E in zip(model.layers, residual.A, residual.B, residual.E):
        is_uniform(B, math.sqrt(6 / (10 if init == "paper" else 20 * 10)))
        is_uniform(A, math.sqrt(6 / (30 if init == "paper" else 10 * 30)))
        assert not E.weight.any() and torch.equal(layer.weight, residual.shared)
        if init == "paper":
            is_uniform(E.bias, 1 / math.sqrt(24))
        else:
            assert not E.bias.any() and torch.equal(layer.bias, bias)


@pytest.mark.parametrize("recipe", [LowRank, GeneratedLowRank])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("terms", TERMS)
def test_every_choice_learns(recipe, init, terms):
    torch.manual_seed(0)
    model = linears(24, 6)
    choices = dict(rank=2, groups=[1, 2, 1], init=init, **terms)
    shared(model, LowRank(**choices) if recipe is LowRank else GeneratedLowRank((2, 3, 4), **choices))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x, targets = torch.randn(50, 6), torch.randn(3, 50, 6) @ torch.randn(6, 24)
    assert all(layer(x).any() for layer in model.layers)  # or what multiplies it would not learn
    losses = []
    for _ in range(30):
        loss = sum(F.mse_loss(layer(x), target) for layer, target in zip(model.layers, targets))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.99 * losses[0]
    assert all(parameter.grad.any() for parameter in model.parameters())


def numbers(module: nn.Module) -> tuple[int, int]:
    """Those of weights and of biases."""
    counts = {True: 0, False: 0}
    for name, parameter in module.named_parameters():
        counts["bias" in name] += parameter.numel()
    return counts[False], counts[True]


@pytest.mark.parametrize("terms", TERMS)
def test_parameters_are_those_of_section_3_4(terms):
    q, g, d, h, r, K = 5, 3, 6, 7, 2, [1, 3, 2, 1]
    W, P = terms.get("shared", True), terms.get("private", True) * sum(K)
    linear, generator = linears(d, h, 4), linears(g * d * h, q, 4)
    shared(linear, LowRank(r, K, **terms))
    shared(generator, GeneratedLowRank((g, d, h), r, K, **terms))
    assert numbers(linear) == (W * d * h + P * (d * r + r * h), 4 * d)
    assert numbers(generator) == (
        g * (W * q * d * h + P * (q * r**2 + d * r + r * h)),
        g * (W * d * h + P * r**2),
    )


WRONG = [dict(rank=wrong) for wrong in (0, 5, 1.5, True)]
WRONG += [dict(groups=wrong) for wrong in (0, True, (1, 2), (1, -1, 2), (1, 1.5, 2))]
WRONG += [dict(shared=False, private=False), dict(init="zero")]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_choice_is_named(wrong):
    for recipe, sizes in ((LowRank, (4, 6)), (lambda **k: GeneratedLowRank((2, 4, 6), **k), (48, 5))):
        with pytest.raises(ValueError) as error:
            shared(linears(*sizes), recipe(**{"rank": 2, **wrong}))
        message = str(error.value)
        assert all(f"{name}={value!r}" in message for name, value in wrong.items()) and "\n" not in message


@pytest.mark.parametrize("shape", [8, (3, 4), (2, 0, 4), (2, 4, 2.5), (1, 2, 3, 4), (2, 4, 5)])
def test_a_shape_that_does_not_fit_is_named(shape):
    with pytest.raises(ValueError) as error:
        shared(linears(48, 5), GeneratedLowRank(shape, 1))
    assert f"shape={shape}" in str(error.value)


def test_numbers_may_be_numpys():
    four = np.int64(4)
    assert shared(linears(48, 5), GeneratedLowRank((2, four, 6), four, np.array([1, 2, 1]))).rank == 4


def test_a_recipe_has_no_tensors_and_serves_any_number_of_stacks():
    recipe = LowRank(2)
    residuals = [shared(linears(4, 6, layers), recipe) for layers in (2, 3)]
    assert [len(residual.A) for residual in residuals] == [2, 3] and not list(recipe.parameters())
    of_each = [{p.data_ptr() for p in residual.parameters()} for residual in residuals]
    assert not any(a & b for a, b in itertools.combinations(of_each, 2))
