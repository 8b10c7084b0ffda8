"""The decoder against one written out step by step, and what flows between its stages."""

from __future__ import annotations

import math
import random
import shutil

import pytest
import torch
from torch import Tensor

from lors.adamixer import Decoder
from lors.sharing import Bank, GeneratedLowRank, LowRank
from oracle import corners, literal_decoder

N, DIM, G, C, P_IN, P_OUT, HEADS, CLASSES = 3, 16, 2, 4, 4, 3, 2, 5
STRIDES = (4, 8, 16)
SIZES = dict(num_stages=N, query_dim=DIM, feature_dim=G * C, groups=G, points_in=P_IN, points_out=P_OUT)
SIZES.update(num_classes=CLASSES, num_heads=HEADS, ffn_dim=32, strides=STRIDES)


def build_decoder(adaptive: bool, static: bool, rank=2, adaptive_groups=(1, 2, 3), static_groups=1, **sizes):
    """With LORS for what makes the mixing weights, for the output projection, for both, or for neither."""
    sizes = {**SIZES, **sizes}
    g, d = sizes["groups"], sizes["feature_dim"] // sizes["groups"]
    residuals = {}
    if adaptive:
        shapes = dict(channel=(g, d, d), spatial=(g, sizes["points_in"], sizes["points_out"]))
        for name, shape in shapes.items():
            residuals[name] = GeneratedLowRank(shape, rank, adaptive_groups, init="released")
    if static:
        residuals["output"] = LowRank(rank, static_groups, init="released")
    bank = Bank(residuals) if residuals else None
    return Decoder(**sizes, bank=bank)


def make_decoder() -> Decoder:
    """LORS with every parameter moved, so that none hides behind a 0 it starts with."""
    decoder = build_decoder(True, True)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return decoder


def inputs(batch: int = 2, queries: int = 5) -> tuple[list[Tensor], Tensor, Tensor]:
    features = [torch.randn(batch, G * C, 64 // s, 96 // s) for s in STRIDES]
    xy = torch.rand(batch, queries, 2) * torch.tensor([96.0, 64.0])
    zr = torch.rand(batch, queries, 2) * torch.tensor([3.0, 2.0]) + torch.tensor([3.0, -1.0])
    return features, torch.randn(batch, queries, DIM), torch.cat((xy, zr), dim=-1)


def random_sizes(seed: int) -> dict:
    rng = random.Random(seed)
    return dict(
        stages=rng.randint(1, 3),
        batch=rng.randint(1, 3),
        queries=rng.randint(1, 12),
        dim=rng.choice((8, 16)),
        groups=rng.randint(1, 3),
        channels=rng.randint(2, 5),
        points_in=rng.randint(2, 6),
        points_out=rng.randint(2, 6),
        rank=rng.randint(1, 2),
        # Some of one pixel or one line; strides in any order.
        levels=[
            (rng.choice((2, 4, 8, 16)), rng.randint(1, 9), rng.randint(1, 9))
            for _ in range(rng.randint(1, 4))
        ],
    )


def random_decoder(
    adaptive: bool, static: bool, **sizes
) -> tuple[Decoder, tuple[list[Tensor], Tensor, Tensor]]:
    """In float64 with random weights, and what it is given: boxes small and large, some outside the image."""
    dim, g, C, levels = (sizes[name] for name in ("dim", "groups", "channels", "levels"))
    # A single stage has none to share with.
    stages = sizes["stages"] + (adaptive or static)
    K = [1 + i % 3 for i in range(stages)]
    decoder = build_decoder(
        adaptive,
        static,
        rank=sizes["rank"],
        adaptive_groups=K,
        static_groups=K,
        num_stages=stages,
        query_dim=dim,
        feature_dim=g * C,
        groups=g,
        points_in=sizes["points_in"],
        points_out=sizes["points_out"],
        strides=[stride for stride, _, _ in levels],
    ).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    like = dict(dtype=torch.float64)
    batch, queries = sizes["batch"], sizes["queries"]
    features = [torch.randn(batch, g * C, h, w, **like, requires_grad=True) for _, h, w in levels]
    stride, h, w = levels[0]
    xy = (2 * torch.rand(batch, queries, 2, **like) - 0.5) * torch.tensor([w * stride, h * stride])
    z, r = 6 * torch.rand(batch, queries, 1, **like), torch.randn(batch, queries, 1, **like)
    content = torch.randn(batch, queries, dim, **like, requires_grad=True)
    return decoder, (features, content, torch.cat((xy, z, r), dim=-1))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        *map(random_sizes, range(8)),
        dict(random_sizes(8), batch=1, queries=1),
        dict(random_sizes(9), groups=1),
        dict(random_sizes(10), levels=[(4, 1, 1), (8, 1, 1), (16, 1, 1)]),
        # So many that LORS forms one weight for all of them.
        dict(random_sizes(11), batch=2, queries=30, dim=8),
    ],
    ids=range(12),
)
def test_the_decoder_is_the_one_written_out_at_any_size(sizes, adaptive, static):
    decoder, (features, content, xyzr) = random_decoder(adaptive, static, **sizes)
    ours, theirs = (
        [tensor for stage in predictions for tensor in stage]
        for predictions in (
            decoder(features, content, xyzr),
            literal_decoder(decoder, features, content, xyzr),
        )
    )
    with torch.no_grad():
        in_inference = [tensor for stage in decoder(features, content, xyzr) for tensor in stage]
    assert len(ours) == len(theirs) == 2 * len(decoder.stages)
    chosen = [torch.randn_like(tensor) for tensor in ours]
    of = [*features, content, *decoder.parameters()]
    gradients = [
        torch.autograd.grad(sum((t * c).sum() for t, c in zip(tensors, chosen)), of)
        for tensors in (ours, theirs)
    ]
    for our, their in zip((*ours, *in_inference, *gradients[0]), (*theirs, *theirs, *gradients[1])):
        assert our.shape == their.shape
        assert (our - their).abs().max() <= 1e-9 * their.abs().max() + 1e-11


def test_boxes_are_detached_between_stages_but_content_is_not():
    decoder = make_decoder()
    features, content, xyzr = inputs()
    predictions = decoder(features, content, xyzr)
    first = decoder.stages[0]
    last_logits, last_boxes = predictions[-1]
    loss = last_logits.sum() + last_boxes.sum()
    heads = [*first.regress.parameters(), *first.classify.parameters()]
    assert all(
        gradient is None or not gradient.any()
        for gradient in torch.autograd.grad(loss, heads, allow_unused=True, retain_graph=True)
    )
    through_content = [first.ffn[0].weight, first.offsets.weight, first.iof_tau]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, through_content, retain_graph=True))
    # In its own stage the box is differentiated.
    assert torch.autograd.grad(predictions[0][1].sum(), first.regress[3].bias)[0].abs().sum() > 0


def test_activation_checkpointing_keeps_less_and_changes_nothing():
    decoder = make_decoder()
    given = inputs()
    results = []
    for flag in (False, True):
        decoder.activation_checkpointing = flag
        kept = 0

        def pack(tensor):
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = sum(part.square().sum() for stage in decoder(*given) for part in stage)
        results.append((kept, torch.autograd.grad(loss, list(decoder.parameters()))))
    (all_kept, expected), (few_kept, actual) = results
    assert few_kept < all_kept / 3
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


@pytest.mark.parametrize("training, backend", [(True, "aot_eager"), (False, "aot_eager"), (True, "inductor")])
def test_compiled_as_one_graph_it_is_the_same(training, backend, long):
    if backend == "inductor" and not (long and shutil.which("g++")):
        pytest.skip("needs a C++ compiler and a minute: make drills")
    decoder = build_decoder(True, True, adaptive_groups=2, num_stages=2).double().train(training)
    given = [[level.double() for level in inputs()[0]], *(tensor.double() for tensor in inputs()[1:])]
    # A graph break, or a number that has to be read back, is an error here.
    found = []
    for run in (decoder, torch.compile(decoder, fullgraph=True, backend=backend)):
        with torch.set_grad_enabled(training):
            predictions = run(*given)
        loss = sum(part.square().mean() for stage in predictions for part in stage)
        found.append((predictions, torch.autograd.grad(loss, list(decoder.parameters())) if training else ()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6 cannot forbid it")
def test_other_sizes_are_not_compiled_again():
    decoder = build_decoder(True, True, adaptive_groups=2, num_stages=2)
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")

    def given(height: int, width: int) -> tuple[list[Tensor], Tensor, Tensor]:
        features = [torch.randn(2, G * C, height // s, width // s) for s in STRIDES]
        return features, *inputs()[1:]

    for sizes in ((64, 96), (96, 64), (128, 80)):
        compiled(*given(*sizes))
    with torch.compiler.set_stance("fail_on_recompile"):
        for sizes in ((80, 112), (112, 80), (160, 160)):
            some = given(*sizes)
            torch.testing.assert_close(compiled(*some), decoder(*some), rtol=1e-5, atol=1e-5)


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
    decoder = build_decoder(True, True)
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
    with pytest.raises(ValueError, match=f"query_dim={query_dim}: .*multiple of 8 and of num_heads={heads}"):
        build_decoder(False, False, query_dim=query_dim, num_heads=heads)


def test_feature_dim_must_fit_the_groups():
    with pytest.raises(ValueError, match="feature_dim=8: must be a multiple of groups=3"):
        build_decoder(False, False, feature_dim=8, groups=3)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_a_state_dict_has_the_plain_names_where_nothing_is_shared(adaptive, static):
    names = set(build_decoder(adaptive, static).state_dict())
    own = {name.split(".", 2)[2] for name in names if name.startswith("stages.")}
    shared = {".".join(name.split(".")[1:3]) for name in names if name.startswith("bank.")}
    adaptive_names, static_names = {"mixing.channel", "mixing.spatial"}, {"mixing.output"}
    assert shared == (adaptive_names if adaptive else set()) | (static_names if static else set())
    for name in adaptive_names | static_names:
        assert (f"{name}.weight" in own) == (name not in shared)
        # A generated weight's bias is generated too.
        assert (f"{name}.bias" in own) == (name not in shared or name in static_names)


def test_what_stages_may_share_is_any_of_their_weights():
    bank = Bank(LowRank(rank=2), only=["attention", "ffn"])
    decoder = Decoder(**SIZES, bank=bank)
    assert {name.partition(".")[0] for name in bank.residuals()} == {"attention", "ffn"}
    predictions = decoder(*inputs())
    sum(part.square().sum() for stage in predictions for part in stage).backward()
    assert all(residual.shared.grad.any() for residual in bank.residuals().values())
