"""The decoder against one written out step by step, and what flows between its stages."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lors.adamixer import Decoder
from lors.bank import ParameterBank
from lors.stack import DenseGenerator, DenseLinear, LORSGenerator, LORSLinear
from oracle import (
    dynamic_fused_weight,
    literal_mixing,
    literal_sampling,
    non_dynamic_fused_weight,
)

N, DIM, G, C, P_IN, P_OUT, HEADS, CLASSES = 3, 16, 2, 4, 4, 3, 2, 5
STRIDES = (4, 8, 16)


def make_bank(adaptive: bool, static: bool) -> ParameterBank:
    def generator(*shape: int) -> nn.Module:
        if adaptive:
            return LORSGenerator(N, DIM, shape, 2, [1, 2, 3])
        return DenseGenerator(N, DIM, shape)

    features = G * P_OUT * C
    output = LORSLinear(N, features, DIM, 3, [2, 1, 1]) if static else DenseLinear(N, features, DIM)
    return ParameterBank(generator(G, C, C), generator(G, P_IN, P_OUT), output)


def make_decoder(adaptive: bool = True, static: bool = True) -> Decoder:
    """With every parameter moved, so that none hides behind a 0 it starts with."""
    decoder = Decoder(make_bank(adaptive, static), CLASSES, num_heads=HEADS, ffn_dim=32, strides=STRIDES)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return decoder


def inputs(batch: int = 2, queries: int = 5) -> tuple[list[Tensor], Tensor, Tensor]:
    features = [torch.randn(batch, G * C, 64 // s, 96 // s) for s in STRIDES]
    xy = torch.rand(batch, queries, 2) * torch.tensor([96.0, 64.0])
    zr = torch.rand(batch, queries, 2) * torch.tensor([3.0, 2.0]) + torch.tensor([3.0, -1.0])
    return features, torch.randn(batch, queries, DIM), torch.cat((xy, zr), dim=-1)


def generated(generator: nn.Module, q: Tensor, i: int) -> Tensor:
    g, d, h = generator.shape
    flat = q.flatten(0, 1)
    if isinstance(generator, DenseGenerator):
        weight = flat @ generator.weight[i].T + generator.bias[i]
        return weight.view(*q.shape[:2], g, d, h)
    K, r = generator.groups[i], generator.rank
    weight = [
        dynamic_fused_weight(
            flat,
            lambda q, k=k: generator.shared(q).view(-1, g, d * h)[:, k],
            lambda q, k=k: generator.E[i](q).view(-1, g, K * r * r)[:, k],
            generator.A[i][None, k],
            generator.B[i][None, k],
        )
        for k in range(g)
    ]
    return torch.stack(weight, dim=1).view(*q.shape[:2], g, d, h)


def projection(linear: nn.Module, i: int) -> Tensor:
    if isinstance(linear, DenseLinear):
        return linear.weight[i]
    return non_dynamic_fused_weight(linear.shared_weight[None], linear.A[i], linear.B[i])


def position(xyzr: Tensor) -> Tensor:
    columns = []
    for value in (xyzr[..., 0] / 1000, xyzr[..., 1] / 1000, xyzr[..., 2], xyzr[..., 3]):
        for k in range(0, DIM // 4, 2):
            angle = value / 10000 ** (4 * k / DIM)
            columns += [angle.sin(), angle.cos()]
    return torch.stack(columns, dim=-1)


def corners(xyzr: Tensor) -> Tensor:
    x, y, z, r = xyzr.unbind(-1)
    w, h = 2 ** (z - r / 2), 2 ** (z + r / 2)
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=-1)


def log_iof(boxes: Tensor) -> Tensor:
    """(L, 4) -> (L, L)."""
    rows = torch.empty(len(boxes), len(boxes))
    for i, a in enumerate(boxes.tolist()):
        for j, b in enumerate(boxes.tolist()):
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            area = (a[2] - a[0]) * (a[3] - a[1])
            rows[i, j] = math.log(max(w, 0) * max(h, 0) / area + 1e-7)
    return rows


def attention(stage: nn.Module, content: Tensor, xyzr: Tensor) -> Tensor:
    x = content + position(xyzr)
    mha, d = stage.attention, DIM // HEADS
    q, k, v = (x @ mha.in_proj_weight.T + mha.in_proj_bias).chunk(3, dim=-1)
    read = torch.empty_like(x)
    for b in range(len(x)):
        bias = log_iof(corners(xyzr[b]))
        for head in range(HEADS):
            part = slice(head * d, (head + 1) * d)
            logits = q[b, :, part] @ k[b, :, part].T / math.sqrt(d) + stage.iof_tau[head] * bias
            read[b, :, part] = logits.softmax(-1) @ v[b, :, part]
    return x + read @ mha.out_proj.weight.T + mha.out_proj.bias


def literal_decoder(decoder: Decoder, features: list[Tensor], content: Tensor, xyzr: Tensor):
    predictions = []
    for i, stage in enumerate(decoder.stages):
        content = stage.attention_norm(attention(stage, content, xyzr))
        offsets = (content @ stage.offsets.weight.T + stage.offsets.bias).view(*content.shape[:2], G, P_IN, 3)
        x, y, z, r = (xyzr[..., k, None, None] for k in range(4))
        w, h = 2 ** (z - r / 2), 2 ** (z + r / 2)
        points = torch.stack((x + offsets[..., 0] * w, y + offsets[..., 1] * h, z + offsets[..., 2]), dim=-1)
        sampled = literal_sampling(features, STRIDES, points, G)
        bank = decoder.bank
        mixed = literal_mixing(
            sampled, generated(bank.channel, content, i), generated(bank.spatial, content, i)
        )
        content = stage.mixing_norm(content + mixed @ projection(bank.output, i).T + bank.output.bias[i])
        hidden = torch.relu(content @ stage.ffn[0].weight.T + stage.ffn[0].bias)
        content = stage.ffn_norm(content + hidden @ stage.ffn[2].weight.T + stage.ffn[2].bias)
        logits, delta = (
            head[3](F.relu(head[1](head[0](content)))) for head in (stage.classify, stage.regress)
        )
        xyzr = torch.cat(
            (xyzr[..., :2] + delta[..., :2] * 2 ** xyzr[..., 2:3], xyzr[..., 2:] + delta[..., 2:]),
            dim=-1,
        )
        predictions.append((logits, corners(xyzr)))
        xyzr = xyzr.detach()
    return predictions


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_every_stage_is_the_one_written_out(adaptive, static):
    decoder = make_decoder(adaptive, static)
    given = inputs()
    with torch.no_grad():
        ours, theirs = decoder(*given), literal_decoder(decoder, *given)
    assert len(ours) == N
    for (logits, boxes), (expected_logits, expected_boxes) in zip(ours, theirs):
        assert logits.shape == (2, 5, CLASSES) and boxes.shape == (2, 5, 4)
        torch.testing.assert_close(logits, expected_logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(boxes, expected_boxes, rtol=1e-3, atol=1e-2)


def test_boxes_are_detached_between_stages_but_content_is_not():
    decoder = make_decoder()
    features, content, xyzr = inputs()
    predictions = decoder(features, content, xyzr)
    first = decoder.stages[0]
    last_logits, last_boxes = predictions[-1]
    loss = last_logits.sum() + last_boxes.sum()
    heads = [*first.regress.parameters(), *first.classify.parameters()]
    assert all(
        gradient is None
        for gradient in torch.autograd.grad(loss, heads, allow_unused=True, retain_graph=True)
    )
    through_content = [first.ffn[0].weight, first.offsets.weight, first.iof_tau]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, through_content, retain_graph=True))
    # In its own stage the box is differentiated.
    assert torch.autograd.grad(predictions[0][1].sum(), first.regress[3].bias)[0].abs().sum() > 0


def test_no_parameter_is_registered_twice():
    decoder = make_decoder()
    named = list(decoder.named_parameters(remove_duplicate=False))
    assert len(named) == len({id(parameter) for _, parameter in named})
    assert len(decoder.state_dict()) == len(named)


def test_queries_are_a_set():
    decoder, (features, content, xyzr) = make_decoder().double(), inputs()
    features, content, xyzr = [f.double() for f in features], content.double(), xyzr.double()
    order = torch.randperm(5)
    predictions = decoder(features, content, xyzr)
    for (logits, boxes), (moved_logits, moved_boxes) in zip(
        predictions, decoder(features, content[:, order], xyzr[:, order])
    ):
        torch.testing.assert_close(logits[:, order], moved_logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(boxes[:, order], moved_boxes, rtol=1e-4, atol=1e-4)


def test_initial_values_of_a_stage():
    decoder = Decoder(make_bank(True, True), CLASSES, num_heads=HEADS, ffn_dim=32, strides=STRIDES)
    for stage in decoder.stages:
        offsets = stage.offsets.bias.view(G, P_IN, 3)
        grid = {(x, y) for x in (-0.25, 0.25) for y in (-0.25, 0.25)}
        for group in offsets:
            assert {(x, y) for x, y, _ in group.tolist()} == grid
            assert (group[:, 2] == -1).all()
        assert not stage.offsets.weight.any()
        assert not stage.regress[3].weight.any() and not stage.regress[3].bias.any()
        assert stage.classify[3].bias.sigmoid().tolist() == pytest.approx([0.01] * CLASSES)
        assert stage.iof_tau.min() >= 0 and stage.iof_tau.max() <= 4
        bound = math.sqrt(6 / (DIM + 32))
        assert 0.9 * bound < stage.ffn[0].weight.abs().max() <= bound
    # So a box does not move before anything is learned.
    features, content, xyzr = inputs()
    for _, boxes in decoder(features, content, xyzr):
        torch.testing.assert_close(boxes, corners(xyzr))


@pytest.mark.parametrize("query_dim, heads", [(12, 2), (16, 3)])
def test_query_dim_must_fit_the_heads(query_dim, heads):
    bank = ParameterBank(
        DenseGenerator(1, query_dim, (1, 2, 2)),
        DenseGenerator(1, query_dim, (1, 2, 2)),
        DenseLinear(1, 4, query_dim),
    )
    with pytest.raises(ValueError, match=f"query_dim={query_dim}: .*multiple of 8 and of num_heads={heads}"):
        Decoder(bank, 3, num_heads=heads)
