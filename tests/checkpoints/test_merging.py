"""Merging: the plain detector that a LORS detector is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lors
from lors.bank import ParameterBank
from lors.stack import DenseGenerator, DenseLinear, LORSGenerator


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


@pytest.mark.parametrize("num_queries", [6, 60])
def test_a_merged_model_gives_the_same_logits_and_boxes_in_every_stage(num_queries, tiny_model, random_image):
    model, image = trained(tiny_model(num_queries=num_queries)), random_image()
    merged = lors.merge(model)
    for ours, theirs in zip(every_stage(merged, image), every_stage(model, image)):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_a_merged_model_is_a_plain_one_and_the_model_stays_as_it_was(tiny_model):
    model = trained(tiny_model())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = lors.merge(model)
    bank = merged.decoder.bank
    assert [type(part) for part in (bank.channel, bank.spatial, bank.output)] == [
        DenseGenerator,
        DenseGenerator,
        DenseLinear,
    ]
    plain = ParameterBank(
        DenseGenerator(2, 16, (2, 4, 4)), DenseGenerator(2, 16, (2, 4, 3)), DenseLinear(2, 2 * 3 * 4, 16)
    )
    tiny_model(plain).load_state_dict(merged.state_dict())
    assert not merged.training
    assert set(before) == set(model.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in merged.state_dict().values()}


def test_merging_twice_is_merging_once(tiny_model):
    merged = lors.merge(trained(tiny_model()))
    again = lors.merge(merged).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in merged.state_dict().items())


def test_a_bank_that_is_partly_dense_merges(tiny_model, random_image):
    bank = ParameterBank(
        LORSGenerator(2, 16, (2, 4, 4), rank=2, groups=2),
        DenseGenerator(2, 16, (2, 4, 3)),
        DenseLinear(2, 2 * 3 * 4, 16),
    )
    model, image = trained(tiny_model(bank)), random_image()
    for ours, theirs in zip(every_stage(lors.merge(model), image), every_stage(model, image)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
