"""Merging a detector: the plain detector that a LORS detector is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lors
from lors.adamixer.mixing import AdaptiveMixing
from lors.checkpoints import Checkpointer, write


def trained(model: nn.Module) -> nn.Module:
    """As if trained: nothing is 0 any more."""
    for parameter in model.decoder.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@torch.no_grad()
def every_stage(model: nn.Module, image: dict) -> list[torch.Tensor]:
    seen = []
    with_hook = model.decoder.register_forward_hook(lambda module, args, output: seen.extend(output))
    model([image])
    with_hook.remove()
    return [tensor for stage in seen for tensor in stage]


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs) == 4
    for our, their in zip(ours, theirs):
        assert (our - their).abs().max() < 1e-4 * their.abs().max()


@pytest.mark.parametrize("num_queries", [6, 60])
def test_a_merged_model_gives_the_same_logits_and_boxes_in_every_stage(num_queries, tiny_model, random_image):
    model, image = trained(tiny_model(num_queries=num_queries)), random_image()
    expected = every_stage(model, image)
    assert_close(every_stage(lors.merge(model), image), expected)
    # Not because the residuals do nothing.
    for B in model.decoder.bank.mixing.output.weight.B:
        B.data.zero_()
    assert (every_stage(model, image)[-2] - expected[-2]).abs().max() > 1e-2 * expected[-2].abs().max()


@pytest.mark.parametrize("kept", [["output"], ["channel", "spatial"], ["channel"]], ids=" ".join)
def test_a_bank_of_some_of_the_weights_merges(kept, tiny_model, random_image):
    recipes = dict(channel=lors.GeneratedLowRank((2, 4, 4), rank=2), output=lors.LowRank(rank=2))
    recipes["spatial"] = lors.GeneratedLowRank((2, 4, 3), rank=2)
    bank = lors.Bank({name: recipes[name] for name in kept})
    model, image = trained(tiny_model(bank)), random_image()
    assert set(bank.residuals()) == {f"mixing.{name}.weight" for name in kept}
    assert_close(every_stage(lors.merge(model), image), every_stage(model, image))


def test_a_merged_file_loads_into_the_plain_detector(tiny_model, random_image, tmp_path):
    model, plain, image = trained(tiny_model()), tiny_model(None).eval(), random_image()
    merged = lors.merge(model)
    for name in ("merged.pth", "merged.safetensors"):
        write(str(tmp_path / name), {"model": merged.state_dict()})
        Checkpointer(plain).load(str(tmp_path / name))
        assert_close(every_stage(plain, image), every_stage(model, image))


def test_a_merged_model_is_a_plain_one_and_the_model_stays_as_it_was(tiny_model):
    model = trained(tiny_model())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = lors.merge(model)
    assert merged.decoder.bank is None and not merged.training
    for stage in merged.decoder.stages:
        assert type(stage.mixing) is AdaptiveMixing
        assert {type(part) for part in stage.mixing.children()} == {nn.Linear}
    assert list(merged.state_dict()) == list(tiny_model(None).state_dict())
    assert set(before) == set(model.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in merged.state_dict().values()}


def test_merging_twice_is_merging_once(tiny_model):
    merged = lors.merge(trained(tiny_model()))
    again = lors.merge(merged).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in merged.state_dict().items())
