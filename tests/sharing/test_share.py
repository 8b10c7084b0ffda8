"""What is shared, and how a bank looks from outside."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from small import model_of
from stacks import STACKS, same
from torch import nn

from lors.sharing import Bank, GeneratedLowRank, LowRank, merge, share


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


def test_vectors_in_the_shape_of_a_matrix_stay_the_layers_own():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Conv2d(6, 1, 1)) for _ in range(3))
    assert list(share(model, "layers", LowRank(2)).residuals()) == ["0.weight"]


def test_a_rank_that_saves_nothing_is_warned_of():
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
    with pytest.warns(UserWarning, match="weight"):
        share(model, "layers", LowRank(6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_merged_layers_share_no_memory(dtype):
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3)).to(dtype)
    share(model, "layers", LowRank(2, private=False))
    merged = merge(model)
    assert len({layer.weight.data_ptr() for layer in merged.layers}) == 3


def test_complex_weights_are_merged():
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(6, 6, dtype=torch.complex64) for _ in range(3))
    share(model, "layers", LowRank(1))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 6, dtype=torch.complex64)
    torch.testing.assert_close(merge(model).layers[1](x), model.layers[1](x))


def test_what_is_not_asked_for_need_not_be_able_to_pull():
    """An LSTM holds its weights twice, and the layers have one norm in common."""
    norm = nn.LayerNorm(6)
    parts = {"rnn": nn.LSTM(6, 6), "norm": norm, "ff": nn.Linear(6, 6)}
    model = nn.Module()
    model.layers = nn.ModuleList(nn.ModuleDict({**copy.deepcopy(parts), "norm": norm}) for _ in range(3))
    assert list(share(model, "layers", LowRank(2), only="ff").residuals()) == ["ff.weight"]


def test_layers_may_differ_in_what_has_no_parameters():
    """As in a ViT with stochastic depth, whose first block drops nothing."""
    model = nn.Module()
    between = [nn.Identity(), nn.Dropout(0.1), nn.Dropout(0.2)]
    model.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), each) for each in between)
    assert list(share(model, "layers", LowRank(2)).residuals()) == ["0.weight"]
    assert [layer[1] for layer in model.layers] == between


def test_a_module_with_two_names_is_one_that_holds_its_weights():
    model = model_of()
    model.encoder = model.layers
    share(model, "layers", LowRank(2))
    x = torch.randn(5, 6)
    same(merge(model)(x), model(x), 1e-5)


def test_what_is_no_sum_or_empty_stays_the_layers_own():
    model = model_of(lambda: nn.Linear(6, 6))
    for layer in model.layers:
        layer.register_parameter("table", nn.Parameter(torch.ones(6, 6, dtype=torch.int8), False))
        layer.register_parameter("prompt", nn.Parameter(torch.ones(0, 6)))
    assert list(share(model, "layers", LowRank(2)).residuals()) == ["weight"]


def test_a_merged_module_has_its_parameters_in_their_order():
    model, plain = (model_of(lambda: nn.GRUCell(6, 6)) for _ in range(2))
    share(model, "layers", LowRank(2), only="weight_hh")
    assert [name for name, _ in merge(model).named_parameters()] == [n for n, _ in plain.named_parameters()]
