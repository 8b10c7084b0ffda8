"""Factorizing: exact where the rank is enough, and the nearest where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lors
from lors.bank import ParameterBank
from lors.checkpoints.factorizing import draw_spectra, relative_errors
from lors.stack import DenseGenerator, DenseLinear, LORSGenerator, LORSLinear

RANKS = dict(adaptive_rank=2, adaptive_groups=[1, 2], static_rank=2)


def normal(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("groups", [1, (1, 1, 2, 2, 3, 3), (2, 1, 3, 1, 2, 2)])
def test_a_merged_generator_is_found_again(groups):
    lors_stack = normal(LORSGenerator(6, 32, (2, 16, 24), rank=4, groups=groups))
    found = lors_stack.merge().factorize(rank=4, groups=groups)
    assert found.groups == lors_stack.groups
    q = torch.randn(9, 32)
    for layer in range(6):
        expected = lors_stack(q, layer)
        assert (found(q, layer) - expected).norm() < 1e-3 * expected.norm()


def trained(module: LORSGenerator | LORSLinear) -> LORSGenerator | LORSLinear:
    """Spectra as training leaves them: the last singular value of a factor is a twentieth of its first."""
    normal(module)
    fall = torch.logspace(0, -1.3, module.rank)
    for A, B in zip(module.A, module.B):
        A.data.mul_(fall[:, None])
        B.data.mul_(fall)
    return module


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 16, 48), (1, 40, 16)])
def test_a_trained_generator_is_found_again(shape):
    lors_stack = trained(LORSGenerator(6, 64, shape, rank=8, groups=(1, 1, 2, 2, 3, 3)))
    for E in lors_stack.E:
        E.weight.data.mul_(torch.logspace(0, -1.3, 64))
    found = lors_stack.merge().factorize(rank=8, groups=lors_stack.groups)
    q = torch.randn(9, 64)
    for layer in range(6):
        expected = lors_stack(q, layer)
        assert (found(q, layer) - expected).norm() < 1e-4 * expected.norm()


def test_a_trained_linear_is_found_again():
    lors_stack = trained(LORSLinear(4, 200, 48, rank=8, groups=(1, 1, 2, 2)))
    found = lors_stack.merge().factorize(rank=8, groups=lors_stack.groups)
    x = torch.randn(9, 200)
    for layer in range(4):
        expected = lors_stack(x, layer)
        assert (found(x, layer) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("groups", [1, (1, 1, 2, 2, 3, 3)])
def test_a_merged_linear_is_found_again(groups):
    lors_stack = normal(LORSLinear(6, 100, 40, rank=4, groups=groups))
    found = lors_stack.merge().factorize(rank=4, groups=groups)
    x = torch.randn(9, 100)
    for layer in range(6):
        expected = lors_stack(x, layer)
        assert (found(x, layer) - expected).norm() < 1e-3 * expected.norm()
        # B and A share the scale.
        torch.testing.assert_close(found.B[layer].norm(), found.A[layer].norm())


def test_a_known_spectrum_is_cut_within_a_percent_of_the_best():
    # Five large singular values and a tail, beside a shared weight that is known too.
    values = torch.cat((torch.full((5,), 2.0), 0.1 * 0.9 ** torch.arange(35.0)))
    dense, shared = DenseLinear(6, 60, 40), torch.randn(40, 60)
    for weight in dense.weight:
        U, V = torch.linalg.qr(torch.randn(40, 40))[0], torch.linalg.qr(torch.randn(60, 40))[0]
        weight.data = shared + (U * values) @ V.T
    merged = dense.factorize(rank=5).merge()
    error = sum((w - m).square().sum() for w, m in zip(dense.weight, merged.weight))
    assert error.sqrt() <= 1.01 * (6 * values[5:].square().sum()).sqrt()


def test_each_alternating_step_lowers_the_error(monkeypatch):
    dense = normal(DenseGenerator(3, 8, (2, 6, 7)))
    errors = []
    share = lors.stack._share

    def watched(layers, approximate, shared):
        def approximated(i, rest):
            part = approximate(i, rest)
            seen.append((rest - part).square().sum().item())
            return part

        seen: list[float] = []
        result = share(layers, approximated, shared)
        errors.append([sum(seen[i : i + 3]) for i in range(0, len(seen), 3)])
        return result

    monkeypatch.setattr(lors.stack, "_share", watched)
    dense.factorize(rank=2, groups=2)
    assert len(errors) == 2 and all(len(phase) > 2 for phase in errors)
    for phase in errors:
        assert all(after <= before * (1 + 1e-5) for before, after in zip(phase, phase[1:]))


@pytest.mark.parametrize("groups", [1, 4])
def test_weights_that_share_nothing_are_no_further_than_their_mean(groups):
    dense = DenseGenerator(6, 16, (1, 24, 32))
    for parameter in dense.parameters():
        nn.init.normal_(parameter)
    weights = [torch.cat((w, b[:, None]), dim=1) for w, b in zip(dense.weight, dense.bias)]
    merged = dense.factorize(rank=6, groups=groups).merge()
    mean = sum(weights) / 6
    found = [torch.cat((w, b[:, None]), dim=1) for w, b in zip(merged.weight, merged.bias)]
    for weight, ours in zip(weights, found):
        assert (weight - ours).norm() < (weight - mean).norm()


def test_forms_that_overlap_still_fit():
    # 3 forms of rank 4 in 8 rows: they can make any weight, and here do.
    dense = normal(DenseGenerator(2, 5, (1, 8, 12)))
    merged = dense.factorize(rank=4, groups=3).merge()
    for ours, theirs in zip(merged.weight, dense.weight):
        assert (ours - theirs).norm() < 0.3 * theirs.norm()


def test_layers_that_are_one_and_the_same():
    dense = DenseLinear(3, 10, 8)
    for weight in dense.weight[1:]:
        weight.data.copy_(dense.weight[0])
    merged = dense.factorize(rank=2).merge()
    for ours, theirs in zip(merged.weight, dense.weight):
        torch.testing.assert_close(ours, theirs)


def test_merge_and_factorize_are_inverses_on_a_detector(tiny_model, random_image, tmp_path):
    bank = ParameterBank(
        LORSGenerator(3, 16, (2, 4, 4), rank=1),
        LORSGenerator(3, 16, (2, 4, 3), rank=1),
        LORSLinear(3, 2 * 3 * 4, 16, rank=2),
    )
    model, image = tiny_model(bank).eval(), random_image()
    for parameter in model.decoder.bank.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    merged = lors.merge(model)
    before = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    again = lors.factorize(merged, adaptive_rank=1, adaptive_groups=1, static_rank=2)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in merged.state_dict().items())
    errors = relative_errors(merged, again)
    assert list(errors) == ["channel", "spatial", "output"]
    assert all(len(stages) == 3 and max(stages) < 1e-3 for stages in errors.values())
    with torch.no_grad():
        ours, theirs = (m([image])[0]["instances"] for m in (again, model))
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-3, atol=1e-3)
    picture = tmp_path / "spectra.png"
    draw_spectra(merged, again, str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [picture]


def test_what_cannot_be_factorized_is_named(tiny_model):
    with pytest.raises(ValueError, match=r"decoder\.bank\.channel is LORS already"):
        lors.factorize(tiny_model(), **RANKS)
    with pytest.raises(ValueError, match="6 layers|2 layers"):
        lors.factorize(lors.merge(tiny_model()), adaptive_rank=2)
    with pytest.raises(ValueError, match="rank=99: must be an int from 1 to 4"):
        lors.factorize(lors.merge(tiny_model()), **{**RANKS, "adaptive_rank": 99})
