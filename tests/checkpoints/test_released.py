"""The numbers that the authors' program printed, and their other layout of the LORS weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CHANNELS
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

import lors.adamixer.boxes
import lors.adamixer.decoder
import lors.adamixer.sampling
from lors.backbones import Swin
from lors.checkpoints import from_released, to_released
from lors.sharing import Bank, GeneratedLowRank, LowRank
from oracle import literal_sampling

TESTS = Path(__file__).parent.parent
FIRST_BOXES = "rpn_head.init_proposal_bboxes.weight"
# Their names of our losses.
LOSSES = {"cls": "loss_cls", "bbox": "loss_bbox", "giou": "loss_iou"}


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that need no storing: each tensor follows from its own name."""
    rs = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    x = rs.standard_normal(shape).astype(np.float32) if shape else np.zeros((), np.float32)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros((), np.int64)
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(x)
    if leaf == "running_mean":
        return 0.1 * x
    if leaf == "iof_tau":
        return np.abs(x)
    if "init_proposal_bboxes" in name:
        x[:] = 1
        x[:, :2] = 0.5
        return x
    if "init_content_features" in name:
        return x
    if len(shape) == 1:
        return 1 + 0.1 * x if leaf == "weight" else 0.05 * x
    if "sampling_offset_generator" in name or "fc_reg" in name:
        return x * 0.3 / np.sqrt(shape[1])
    fan_in = int(np.prod(shape[1:])) if len(shape) != 3 else shape[-1]
    return x * (np.sqrt(2.0) if len(shape) == 4 else 1.0) / np.sqrt(fan_in)


def load_config(name: str):
    return LazyConfig.load(str(TESTS.parent / "configs" / f"{name}.py"))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(TESTS / "golden" / "official_adamixer_r50.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def state_dict(golden) -> dict[str, Tensor]:
    shapes = [tuple(map(int, shape.split(","))) if shape else () for shape in map(str, golden["shapes"])]
    # A copy has torch's alignment of memory, on which the rounding of a product may depend.
    return {
        name: torch.as_tensor(fill(name, shape)).clone()
        for name, shape in zip(map(str, golden["names"]), shapes)
    }


@pytest.fixture(scope="module")
def model(state_dict) -> Iterator[nn.Module]:
    # Off the device, so that no second set of weights is drawn at random.
    with torch.device("meta"):
        model = instantiate(load_config("adamixer_r50_1x").model)
    model.load_state_dict({n: t.float() for n, t in from_released(state_dict).items()}, assign=True)
    settings = dict(pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375])
    for name, values in settings.items():
        setattr(model, name, torch.tensor(values).view(3, 1, 1))
    yield model


def image() -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).uniform(0, 255, (3, 256, 320)).astype(np.float32))


def predict(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    seen = []
    handle = model.decoder.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        model.eval()([{"image": image()}])
    handle.remove()
    return seen[0]


def losses_and_gradients(model: nn.Module, golden) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    truth = Instances(
        (256, 320),
        gt_boxes=Boxes(torch.from_numpy(golden["gt"])),
        gt_classes=torch.from_numpy(golden["lab"]),
    )
    model.zero_grad()
    losses = model.train()([{"image": image(), "instances": truth}])
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def released_norms(gradients: dict[str, Tensor], state_dict: dict[str, Tensor]) -> dict[str, float]:
    """Norms of our gradients under the released names; theirs may hold several of our tensors."""
    names = list(state_dict)
    numbered = {
        name: tensor if name == FIRST_BOXES else torch.tensor(k, dtype=torch.int16).expand(tensor.shape)
        for k, (name, tensor) in enumerate(state_dict.items())
    }
    parts: dict[str, list[float]] = {}
    for ours, number in from_released(numbered).items():
        if ours in gradients:
            assert gradients[ours].shape == number.shape
            name = names[int(number.flatten()[0])]
            parts.setdefault(name, []).append(gradients[ours].norm().item())
    return {name: float(np.hypot.reduce(norms)) for name, norms in parts.items()}


def check(model: nn.Module, golden, state_dict) -> None:
    predictions = predict(model)
    for i, (logits, boxes) in enumerate(predictions):
        for ours, theirs in ((logits[0], golden["cls"][i]), (boxes[0], golden["box"][i])):
            assert np.abs(ours.numpy() - theirs).max() < 1e-3 * np.abs(theirs).max()

    losses, gradients = losses_and_gradients(model, golden)
    printed = dict(zip(map(str, golden["loss_names"]), golden["loss_values"].tolist()))
    assert len(losses) == 18
    for i in range(6):
        for ours, theirs in LOSSES.items():
            assert losses[f"loss_{ours}_{i}"].item() == pytest.approx(printed[f"stage{i}_{theirs}"], rel=1e-4)

    # Under these random weights a last bit grows a thousandfold over the stages, and a point that
    # it moves across a cell's border changes a gradient. Where no bit differs, gradients agree.
    theirs = torch.from_numpy(golden["cls"])
    identical = torch.equal(torch.cat([logits for logits, _ in predictions]), theirs)
    tolerance = 1e-3 if identical else 2e-2
    norms = released_norms(gradients, state_dict)
    printed = dict(zip(map(str, golden["grad_names"]), golden["grad_norms"].tolist()))
    # The first boxes are no parameter here.
    assert set(norms) == set(printed) - {FIRST_BOXES}
    wrong = {
        name: (norm, printed[name])
        for name, norm in norms.items()
        # In the first stage all boxes are one: the bias is the same everywhere.
        if not norm == pytest.approx(printed[name], rel=tolerance, abs=1e-6 if "0.iof_tau" in name else 0)
    }
    assert wrong == {}


def test_the_released_program_gave_the_same_numbers(model, golden, state_dict):
    check(model, golden, state_dict)


def test_with_its_order_of_operations_the_gradients_agree_too(model, golden, state_dict, monkeypatch):
    class GridSample:
        def __init__(self, levels, strides, groups):
            self.arguments = levels, strides, groups

        def sample(self, points):
            levels, strides, groups = self.arguments
            return literal_sampling(levels, strides, points, groups)

    def size_of(zr):
        z, r = zr.split(1, -1)
        return 2.0**z * 2.0 ** torch.cat([r * -0.5, r * 0.5], -1)

    def attend(q, k, v, attn_mask):
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + attn_mask).softmax(dim=-1) @ v

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    monkeypatch.setattr(lors.adamixer.decoder, "Pyramid", GridSample)
    monkeypatch.setattr(lors.adamixer.sampling, "size_of", size_of)
    monkeypatch.setattr(lors.adamixer.boxes, "size_of", size_of)
    check(model, golden, state_dict)


# The released LORS, small: the geometry of the fixture `tiny_model`.
N, D, G, C, P_IN, P_OUT, R, GROUPS, QUERIES, CLASSES, FFN = 2, 16, 2, 4, 4, 3, 2, (1, 2), 6, 3, 16
HEAD = "roi_head.adaptive_mixing."


def released_lors() -> dict[str, Tensor]:
    """Random weights in the authors' naming and layout."""
    shapes: dict[str, tuple[int, ...]] = {"backbone.conv1.weight": (CHANNELS[0], 3, 7, 7)}

    def affine(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def batch_norm(name: str, channels: int) -> None:
        affine(name, channels)
        shapes.update({f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)})
        shapes[f"{name}.num_batches_tracked"] = ()

    batch_norm("backbone.bn1", CHANNELS[0])
    channels = (CHANNELS[0], *CHANNELS)
    for k in (1, 2, 3, 4):
        block, before, after = f"backbone.layer{k}.0", channels[k - 1], channels[k]
        shapes[f"{block}.conv1.weight"] = (after, before, 3, 3)
        shapes[f"{block}.conv2.weight"] = (after, after, 3, 3)
        batch_norm(f"{block}.bn1", after)
        batch_norm(f"{block}.bn2", after)
        if before != after:
            shapes[f"{block}.downsample.0.weight"] = (after, before, 1, 1)
            batch_norm(f"{block}.downsample.1", after)
        affine(f"neck.lateral_convs.{k - 1}.conv", G * C, after, 1, 1)
    affine("neck.gn_out", G * C)
    shapes["rpn_head.init_content_features.weight"] = (QUERIES, D)
    features = G * P_OUT * C
    affine(f"{HEAD}common_parameter_generator", G * (C * C + P_OUT * P_IN), D)
    shapes[f"{HEAD}base_out_proj.weight"] = (D, features)
    for i, K in enumerate(GROUPS):
        affine(f"{HEAD}private_parameter_generator.{i}", 2 * G * K * R * R, D)
        shapes.update(
            {
                f"{HEAD}ml_parameters.{i}": (G * K, C, R),
                f"{HEAD}mr_parameters.{i}": (G * K, R, C),
                f"{HEAD}sl_parameters.{i}": (G * K, P_OUT, R),
                f"{HEAD}sr_parameters.{i}": (G * K, R, P_IN),
                f"{HEAD}out_weight_add_A.{i}": (R, features),
                f"{HEAD}out_weight_add_B.{i}": (D, R),
                f"{HEAD}out_weight_bias.{i}": (D,),
            }
        )
        affine(f"{HEAD}out_norm.{i}", D)
        stage = f"roi_head.bbox_head.{i}."
        shapes[f"{stage}iof_tau"] = (2,)
        shapes[f"{stage}attention.attn.in_proj_weight"] = (3 * D, D)
        shapes[f"{stage}attention.attn.in_proj_bias"] = (3 * D,)
        affine(f"{stage}attention.attn.out_proj", D, D)
        affine(f"{stage}attention_norm", D)
        affine(f"{stage}ffn.layers.0.0", FFN, D)
        affine(f"{stage}ffn.layers.1", D, FFN)
        affine(f"{stage}ffn_norm", D)
        affine(f"{stage}sampling.sampling_offset_generator.0", G * P_IN * 3, D)
        for name, out in (("cls", CLASSES), ("reg", 4)):
            affine(f"{stage}{name}_fcs.0", D, D)
            affine(f"{stage}{name}_fcs.1", D)
            affine(f"{stage}fc_{name}", out, D)
    tensors = {
        name: torch.tensor(0) if name.endswith("tracked") else torch.randn(shape, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    tensors[FIRST_BOXES] = torch.tensor([0.5, 0.5, 1, 1], dtype=torch.float64).repeat(QUERIES, 1)
    return tensors


def literal_released_mixing(weights: dict[str, Tensor], x: Tensor, q: Tensor, i: int):
    """q (D,) and its samples x (g, P_in, C) -> M (g, C, C), S (g, P_out, P_in), output (D,)."""
    w = {name[len(HEAD) :]: tensor for name, tensor in weights.items() if name.startswith(HEAD)}
    K = GROUPS[i]
    common = w["common_parameter_generator.weight"] @ q + w["common_parameter_generator.bias"]
    private = w[f"private_parameter_generator.{i}.weight"] @ q + w[f"private_parameter_generator.{i}.bias"]
    E_m, E_s = private.view(2, G * K, R, R)
    channel, spatial, mixed = [], [], []
    for group, row in enumerate(common.view(G, C * C + P_OUT * P_IN)):
        M, S = row[: C * C].view(C, C), row[C * C :].view(P_OUT, P_IN)
        for k in range(group * K, (group + 1) * K):
            M = M + w[f"ml_parameters.{i}"][k] @ E_m[k] @ w[f"mr_parameters.{i}"][k]
            S = S + w[f"sl_parameters.{i}"][k] @ E_s[k] @ w[f"sr_parameters.{i}"][k]
        out = F.relu(F.layer_norm(x[group] @ M, (P_IN, C)))
        mixed.append(F.relu(F.layer_norm(S @ out, (P_OUT, C))))
        channel.append(M)
        spatial.append(S)
    projection = w["base_out_proj.weight"] + w[f"out_weight_add_B.{i}"] @ w[f"out_weight_add_A.{i}"]
    output = projection @ torch.stack(mixed).flatten() + w[f"out_weight_bias.{i}"]
    return torch.stack(channel), torch.stack(spatial), output


def test_a_converted_lors_mixes_as_the_released_one(tiny_model):
    released = released_lors()
    model = tiny_model().double()
    model.load_state_dict(from_released(released), strict=True)
    q = torch.randn(1, 5, D, dtype=torch.float64)
    x = torch.randn(1, 5, G, P_IN, C, dtype=torch.float64)
    close = dict(rtol=1e-10, atol=1e-10)
    for i, stage in enumerate(model.decoder.stages):
        mixing = stage.mixing
        assert (mixing.groups, mixing.channels, mixing.points_in, mixing.points_out) == (G, C, P_IN, P_OUT)
        channel = mixing.channel(q).view(1, 5, G, C, C)
        spatial = mixing.spatial(q).view(1, 5, G, P_IN, P_OUT)
        output = mixing(x, q)
        for query in range(5):
            M, S, expected = literal_released_mixing(released, x[0, query], q[0, query], i)
            torch.testing.assert_close(channel[0, query], M, **close)
            torch.testing.assert_close(spatial[0, query].transpose(1, 2), S, **close)
            torch.testing.assert_close(output[0, query], expected, **close)


def test_the_norm_after_mixing_and_the_sampling_offsets_find_their_stage(tiny_model):
    released = released_lors()
    converted = from_released(released)
    for i in range(N):
        for ours, theirs in (
            ("mixing_norm", f"{HEAD}out_norm.{i}"),
            ("offsets", f"roi_head.bbox_head.{i}.sampling.sampling_offset_generator.0"),
            ("classify.3", f"roi_head.bbox_head.{i}.fc_cls"),
            ("regress.0", f"roi_head.bbox_head.{i}.reg_fcs.0"),
        ):
            for leaf in ("weight", "bias"):
                assert torch.equal(
                    converted[f"decoder.stages.{i}.{ours}.{leaf}"], released[f"{theirs}.{leaf}"]
                )


def test_an_unknown_key_is_named():
    released = released_lors()
    released["roi_head.adaptive_mixing.gate.0"] = torch.ones(3)
    with pytest.raises(ValueError, match=r" roi_head\.adaptive_mixing\.gate\.0$"):
        from_released(released)


def test_another_kind_of_state_dict_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"neck\.gn_out\.weight$"):
        from_released(tiny_model().state_dict())


def test_first_boxes_other_than_the_image_cannot_be_kept():
    released = released_lors()
    released[FIRST_BOXES][3, 2] = 0.5
    with pytest.raises(ValueError, match=FIRST_BOXES):
        from_released(released)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


def test_there_and_back_nothing_is_lost(state_dict):
    same(to_released(from_released(state_dict)), state_dict)
    released = released_lors()
    same(to_released(from_released(released)), released)


@pytest.mark.parametrize("bank", ["lors", None])
def test_a_model_of_this_project_goes_there_and_back(bank, tiny_model):
    ours = tiny_model(bank).state_dict()
    same(from_released(to_released(ours)), dict(ours))


CHANNEL, SPATIAL = GeneratedLowRank((G, C, C), R), GeneratedLowRank((G, P_IN, P_OUT), R)


@pytest.mark.parametrize(
    "residuals, named",
    [
        (dict(channel=CHANNEL), "bank.mixing.output.weight.shared"),
        (dict(output=LowRank(R)), "stages.0.mixing.output.weight"),
        (dict(channel=CHANNEL, output=LowRank(R)), "bank.mixing.spatial.weight.A.0"),
        (
            dict(channel=CHANNEL, spatial=SPATIAL, output=LowRank(R), attention=LowRank(R)),
            "bank.attention.in_proj_weight.shared",
        ),
        (
            dict(channel=GeneratedLowRank((G, C, C), R, shared=False), spatial=SPATIAL, output=LowRank(R)),
            "stages.0.mixing.channel.weight",
        ),
        (
            dict(channel=GeneratedLowRank((G, C, C), R, private=False), spatial=SPATIAL, output=LowRank(R)),
            "bank.mixing.channel.weight.A.0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bank_that_is_not_theirs_has_no_released_form(residuals, named, tiny_model):
    with pytest.raises(ValueError, match=rf" decoder\.{named}"):
        to_released(tiny_model(Bank(residuals)).state_dict())


@pytest.mark.parametrize(
    "other",
    [
        dict(output=LowRank(R, groups=2)),
        dict(spatial=GeneratedLowRank((G, P_IN, P_OUT), R, groups=(1, 3))),
        dict(channel=GeneratedLowRank((G, C, C), rank=3)),
        dict(channel=LowRank(R)),
        dict(channel=LowRank(R), spatial=LowRank(R)),
    ],
    ids=lambda residuals: " ".join(residuals),
)
def test_residuals_of_other_sizes_have_no_released_form(other, tiny_model):
    bank = Bank({**dict(channel=CHANNEL, spatial=SPATIAL, output=LowRank(R)), **other})
    with pytest.raises(ValueError, match=r"channel\.weight\.A\.\d is \(.*output\.weight\.A\.\d is \("):
        to_released(tiny_model(bank).state_dict())


def test_what_is_no_detector_has_no_released_form():
    with pytest.raises(ValueError, match=r"no neck\.norm\.weight"):
        to_released({"decoder.x": torch.ones(1)})


def test_mmdetection_orders_merged_patches_by_channel_and_row():
    swin = Swin(8, [2, 1, 1, 2], [1, 1, 2, 2], window_size=4).state_dict()
    detector = {n: t for n, t in from_released(released_lors()).items() if not n.startswith("backbone.")}
    ours = {**detector, **{f"backbone.{name}": tensor for name, tensor in swin.items()}}
    theirs = to_released(ours)
    merging = swin["features.2.reduction.weight"]
    for x in (0, 1):
        for y in (0, 1):
            for c in range(8):
                column = theirs["backbone.stages.0.downsample.reduction.weight"][:, c * 4 + y * 2 + x]
                assert torch.equal(column, merging[:, (x * 2 + y) * 8 + c])
    assert theirs["backbone.stages.1.blocks.0.attn.w_msa.relative_position_index"].shape == (16, 16)
    assert torch.equal(theirs["backbone.norm3.weight"], swin["norms.3.weight"])
    back = from_released(theirs)
    assert set(back) == set(ours) and all(torch.equal(tensor, back[n]) for n, tensor in ours.items())
