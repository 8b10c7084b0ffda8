"""What is shared, how a bank looks from outside, and calls that cannot be met."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from stacks import STACKS, same
from torch import Tensor, nn

from lors.sharing import Bank, GeneratedLowRank, LowRank, merge, share


class Model(nn.Module):
    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    """An attention-like layer that also holds a matrix itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 6))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(6, 24), "proj": nn.Linear(24, 6, bias=False)})
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = self.table.norm()
        return self.norm(x + self.attn["proj"](self.attn["qkv"](x).tanh()) + x @ self.table / scale)


def model_of(kind: Callable[[], nn.Module] = Layer, layers: int = 3) -> Model:
    torch.manual_seed(0)
    return Model([kind() for _ in range(layers)])


@pytest.mark.parametrize(
    "residual, only, names",
    [
        (LowRank(2), None, {"table", "attn.qkv.weight", "attn.proj.weight"}),
        (LowRank(2), "attn", {"attn.qkv.weight", "attn.proj.weight"}),
        (LowRank(2), "qkv", {"attn.qkv.weight"}),
        (LowRank(2), "weight", {"attn.qkv.weight", "attn.proj.weight"}),
        (LowRank(2), ["table", "attn.p*"], {"table", "attn.proj.weight"}),
        ({"attn": LowRank(2)}, None, {"attn.qkv.weight", "attn.proj.weight"}),
        ({"qkv": GeneratedLowRank((2, 3, 4), 2), "table": LowRank(1)}, None, {"attn.qkv.weight", "table"}),
        ({"attn": LowRank(2), "table": LowRank(3)}, ["table", "proj"], {"table", "attn.proj.weight"}),
        ({"proj": LowRank(1), "*": LowRank(2)}, None, {"table", "attn.qkv.weight", "attn.proj.weight"}),
    ],
)
def test_patterns_choose_what_is_shared_and_how(residual, only, names):
    model, plain = model_of(), model_of()
    bank = share(model, "layers", residual, only)
    assert isinstance(bank, Bank) and model.bank is bank and set(bank.residuals()) == names
    recipes = residual if isinstance(residual, dict) else {"*": residual}
    for name, made in bank.residuals().items():
        recipe = next(r for pattern, r in recipes.items() if pattern == "*" or pattern in name)
        assert (type(made), made.rank) == (type(recipe), recipe.rank) and len(made.A) == 3
    gone = names | ({"attn.qkv.bias"} if "qkv" in recipes else set())
    assert {name for name, _ in model.layers.named_parameters()} == {
        name for name, _ in plain.layers.named_parameters() if name.split(".", 1)[1] not in gone
    }
    x = torch.randn(5, 6)
    same(model.layers[0](x), plain.layers[0](x), 1e-5)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in plain.parameters())
    model(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_read_without_gradients_has_them_where_they_are_wanted():
    model = model_of()
    share(model, "layers", LowRank(2))
    merged, x = merge(model), torch.randn(5, 6)
    for one in (model, merged):
        one(x).square().sum().backward()
    same(model.bank.table.shared.grad, sum(layer.table.grad for layer in merged.layers), 1e-4)


@pytest.mark.parametrize(
    "part, chosen", [("[1:]", {1, 2}), ("[:-1]", {0, 1}), ("[-2:]", {1, 2}), ("[::2]", {0, 2})]
)
def test_a_part_of_a_container(part, chosen):
    model = model_of()
    share(model, f"layers{part}", LowRank(2))
    assert {i for i, layer in enumerate(model.layers) if "table" not in layer.state_dict()} == chosen


def test_banks_of_one_model_have_names_of_their_own():
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, 2, 2, 12, 0.0, batch_first=True)
    share(model, "encoder.layers", LowRank(2))
    share(model, "decoder.layers", LowRank(2), only="linear?")
    both = nn.Module()
    both.one, both.two = model_of().layers, model_of().layers
    share(both, "one", LowRank(2))
    before = both.state_dict().keys()
    with pytest.raises(ValueError, match="name="):
        share(both, "two", LowRank(2))
    assert both.state_dict().keys() == before
    share(both, "two", LowRank(2), name="second")
    assert both.second.residuals().keys() == both.bank.residuals().keys()
    plain, x = merge(model), torch.randn(2, 5, 8)
    same(plain(x, x), model(x, x), 1e-5)
    assert plain.encoder.bank is None and plain.decoder.bank is None
    share(plain, "encoder.layers", LowRank(2))  # None does not stand in the way


def test_frozen_stays_frozen():
    model = model_of()
    model.requires_grad_(False)
    share(model, "layers", LowRank(2))
    private = [p for one in model.bank.residuals().values() for p in (*one.A, *one.B)]
    assert {id(p) for p in model.parameters() if p.requires_grad} == set(map(id, private))
    assert any(p.requires_grad for p in merge(model).parameters())
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in merge(model).parameters())


def test_layers_without_memory_are_filled_later():
    with torch.device("meta"):
        model = model_of()
    share(model, "layers", LowRank(2))
    other = model_of()
    share(other, "layers", LowRank(2))
    model.to_empty(device="cpu").load_state_dict(other.state_dict())
    x = torch.randn(5, 6)
    same(model(x), other(x), 0)


def test_a_normed_weight_is_shared_before_it_is_normed():
    model = model_of(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)))
    share(model, "layers", LowRank(2), only="original1")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    plain, x = merge(model), torch.randn(5, 6)
    same(plain(x), model(x), 1e-4)
    assert "layers.0.parametrizations.weight.original1" in plain.state_dict()


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
        (lambda: model_of(tied), {}, ["layer 0", "1.weight", "0.weight"]),
        (lambda: model_of(lambda: nn.LSTM(6, 6)), {}, ["layer 0", "LSTM"]),
        (lambda: model_of(lambda: nn.LayerNorm(6)), {}, ["*"]),
        (lambda: model_of(attached), {}, ["attach"]),
        (model_of, dict(only="head"), ["'head'", "attn.qkv.weight"]),
        (model_of, dict(only=["attn", "ttn"]), ["'ttn'"]),
        (model_of, dict(only=[]), ["[]"]),
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


@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_the_other_kind_are_refused(strict):
    stack = STACKS["encoder"]
    model, plain = stack.shared(), stack.plain()
    with pytest.raises(ValueError, match=r"1\.layers\.0\.self_attn\.in_proj_weight"):
        model.load_state_dict(plain.state_dict(), strict=strict)
    with pytest.raises(RuntimeError, match="bank"):
        plain.load_state_dict(model.state_dict())


def test_a_pulled_weight_cannot_be_set():
    model = model_of()
    share(model, "layers", LowRank(2))
    for value in (torch.zeros(6, 6), nn.Parameter(torch.zeros(6, 6))):
        with pytest.raises((AttributeError, KeyError), match="table"):
            model.layers[0].table = value


def test_sharing_needs_torch_alone():
    code = "import sys, lors.sharing; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"detectron2", "fvcore", "torchvision", "scipy", "omegaconf"} & set(done.stdout.split())


def test_a_weight_that_something_else_holds_is_not_parted_from_it():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
    model.head = nn.Linear(6, 6)
    model.head.weight = model.layers[0].weight
    with pytest.raises(ValueError, match=r"layers\.0\.weight|head\.weight"):
        share(model, "layers", LowRank(2))
    model.head.weight = nn.Parameter(torch.zeros(6, 6))
    assert share(model, "layers", LowRank(2)).residuals()


def test_vectors_in_the_shape_of_a_matrix_stay_the_layers_own():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Conv2d(6, 1, 1)) for _ in range(3))
    assert list(share(model, "layers", LowRank(2)).residuals()) == ["0.weight"]


def test_a_rank_that_saves_nothing_is_warned_of():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
    with pytest.warns(UserWarning, match="weight"):
        share(model, "layers", LowRank(6))


def test_complex_weights_are_merged():
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(6, 6, dtype=torch.complex64) for _ in range(3))
    share(model, "layers", LowRank(1))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 6, dtype=torch.complex64)
    torch.testing.assert_close(merge(model).layers[1](x), model.layers[1](x))
