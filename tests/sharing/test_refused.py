"""Calls that cannot be met."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from small import Layer, Model, model_of
from torch import nn

from lors.sharing import Bank, GeneratedLowRank, LowRank, share


def tied() -> nn.Module:
    layer = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    layer[1].weight = layer[0].weight
    return layer


def mixed(*kinds: Callable[[], nn.Module]) -> Model:
    return Model([kind() for kind in kinds])


def twice() -> Model:
    model = model_of()
    model.layers[2] = model.layers[0]
    return model


def pulling() -> Model:
    model = model_of()
    share(model, "layers", LowRank(2), name="first")
    return model


def half_frozen() -> Model:
    model = model_of()
    model.layers[1].table.requires_grad_(False)
    return model


def attached() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.attach = nn.Parameter(torch.randn(6, 6))
    return layer


def in_a_dict() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.also = {"all": [layer.weight]}
    return layer


def conv() -> nn.Module:
    return nn.Conv2d(6, 6, 1)


def linear() -> nn.Module:
    return nn.Linear(6, 6)


@pytest.mark.parametrize(
    "build, call, named",
    [
        (model_of, dict(layers="layer"), ["'layer'", "'layers'"]),
        (model_of, dict(layers=""), ["''", "layers"]),
        (model_of, dict(layers="layers[1]"), ["layers[1]"]),
        (model_of, dict(layers="layers[-:]"), ["layers[-:]"]),
        (model_of, dict(layers="layers[2:]"), ["two", "1"]),
        (model_of, dict(layers="layers[7:]"), ["two", "0"]),
        (lambda: nn.Sequential(linear(), tied()), dict(layers="1"), ["'1'", "Sequential"]),
        (lambda: mixed(Layer, Layer, linear), {}, ["0 and 2", "Layer", "Linear"]),
        (lambda: mixed(linear, lambda: nn.Linear(6, 7)), {}, ["0 and 1", "weight", "(6, 6)", "(7, 6)"]),
        (lambda: mixed(linear, lambda: nn.Linear(6, 6, bias=False)), {}, ["0 and 1", "bias"]),
        (lambda: mixed(linear, lambda: linear().double()), {}, ["0 and 1", "weight", "float64"]),
        (lambda: mixed(linear, lambda: linear().to("meta")), {}, ["0 and 1", "weight", "meta"]),
        (half_frozen, {}, ["0 and 1", "table", "frozen"]),
        (twice, {}, ["layer 2", "layer 0"]),
        (pulling, {}, ["layer 0", "pulls"]),
        (lambda: model_of(tied), {}, ["layers.0.0.weight", "layers.0.1.weight"]),
        (lambda: model_of(in_a_dict), {}, ["layer 0", "Linear", "also"]),
        (lambda: model_of(lambda: nn.LSTM(6, 6)), {}, ["layer 0", "LSTM"]),
        (lambda: model_of(lambda: nn.LayerNorm(6)), {}, ["*"]),
        (lambda: model_of(attached), {}, ["attach"]),
        (model_of, dict(only="head"), ["'head'", "attn.qkv.weight"]),
        (model_of, dict(only=["attn", "ttn"]), ["'ttn'"]),
        (model_of, dict(only=[]), ["[]"]),
        (model_of, dict(residual={}), ["{}"]),
        (model_of, dict(residual={"*": LowRank(2), "attn": LowRank(1)}), ["'attn'"]),
        (model_of, dict(residual={"attn": LowRank(2), "mlp": LowRank(2)}), ["'mlp'"]),
        (model_of, dict(residual={"attn": LowRank(2)}, only="table"), ["'table'"]),
        (model_of, dict(residual=LowRank(7)), ["table", "rank=7"]),
        (model_of, dict(residual=LowRank(2, [1, 2])), ["groups=(1, 2)", "3"]),
        (model_of, dict(residual=GeneratedLowRank((2, 3, 4), 2), only="table"), ["table"]),
        (model_of, dict(residual=GeneratedLowRank((2, 3, 5), 2), only="qkv"), ["qkv.weight", "(2, 3, 5)"]),
        (model_of, dict(residual=GeneratedLowRank((1, 2, 3), 2), only="proj"), ["attn.proj.weight", "bias"]),
        (lambda: model_of(conv), dict(residual=GeneratedLowRank((1, 2, 3), 1)), ["(6, 6, 1, 1)"]),
        (model_of, dict(name="layers"), ["layers", "name="]),
    ],
)
def test_a_call_that_cannot_be_met_says_why_and_changes_nothing(build, call, named):
    model = build()
    before, weights = [(m, type(m)) for m in model.modules()], copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError) as error:
        share(model, **{"layers": "layers", "residual": LowRank(2), **call})
    message = str(error.value)
    assert all(part in message for part in named) and "\n" not in message, message
    assert [(m, type(m)) for m in model.modules()] == before
    assert list(model.state_dict()) == list(weights)
    for name, weight in model.state_dict().items():
        assert weight.is_meta or torch.equal(weight, weights[name])


def test_a_weight_that_something_else_holds_is_not_parted_from_it():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
    model.head = nn.Linear(6, 6)
    model.head.weight = model.layers[0].weight
    with pytest.raises(ValueError, match=r"layers\.0\.weight|head\.weight"):
        share(model, "layers", LowRank(2))
    model.head.weight = nn.Parameter(torch.zeros(6, 6))
    assert share(model, "layers", LowRank(2)).residuals()


def test_a_bank_has_one_stack():
    first, second = (nn.ModuleList(nn.Linear(6, 6) for _ in range(3)) for _ in range(2))
    bank = Bank(LowRank(2))
    bank.attach(first)
    with pytest.raises(ValueError, match="the bank"):
        bank.attach(second)
    assert first[0].weight.grad_fn and second[0].weight.is_leaf
