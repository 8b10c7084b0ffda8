"""Factorizing a detector: the LORS detector with the paper's ranks that is nearest to a plain one."""

from __future__ import annotations

import torch
from conftest import build_tiny_decoder
from detectron2.config import instantiate
from torch import nn

import lors
from lors.config import lors_bank

# The tiny decoder with six stages.
SIZES = dict(num_stages=6, query_dim=64, feature_dim=64, groups=2, points_in=48, points_out=32, ffn_dim=16)


def residuals() -> dict:
    """Section 4.1's groups and static rank; an adaptive rank that fits."""
    bank = lors_bank(groups=2, channels=32, points_in=48, points_out=32, adaptive_rank=4)
    assert bank.residual.channel.groups == [1, 1, 2, 2, 3, 3] and bank.residual.output.rank == 8
    return instantiate(bank.residual)


def trained(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return module.eval()


def test_a_merged_detector_is_found_again(tiny_model, random_image):
    model, image = tiny_model().eval(), random_image()
    model.neck = type(model.neck)([16, 20, 24, 28], SIZES["feature_dim"], num_groups=2)
    model.queries = type(model.queries)(6, SIZES["query_dim"])
    model.decoder = trained(build_tiny_decoder(lors.Bank(residuals()), **SIZES))
    merged = lors.merge(model)
    before = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    again, explained = lors.factorize(merged, "decoder.stages", residuals())
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in merged.state_dict().items())
    names = [f"mixing.{name}.weight" for name in ("channel", "spatial", "output")]
    assert [(row.name, row.layer) for row in explained] == [(name, i) for name in names for i in range(6)]
    # Of the sum of squares, so that the weights are within 1e-3.
    assert all(row.together > 1 - 1e-6 for row in explained)
    assert all(max(row.shared, row.alone) < 1 - 1e-3 for row in explained)
    with torch.no_grad():
        ours, theirs = (m([image])[0]["instances"] for m in (again, model))
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-3, atol=1e-3)


def test_a_factorized_detector_trains(tiny_model, random_image):
    plain = tiny_model(None)
    trained(plain.decoder)
    again, explained = lors.factorize(plain, "decoder.stages", {"output": lors.LowRank(2)})
    assert {row.name for row in explained} == {"mixing.output.weight"}
    assert all(0 < row.together < 1 for row in explained)
    sum(again.train()([random_image()]).values()).backward()
    residual = again.decoder.bank.mixing.output.weight
    assert all(p.grad is not None and p.grad.any() for p in residual.parameters())
