"""Backbones of other programs: small files of their exact layout, and the features that they give."""

from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from torch import Tensor
from torchvision.models import resnet, swin_transformer

from lors.backbones import Swin
from lors.checkpoints import Checkpointer
from lors.checkpoints.backbones import from_backbone
from lors.errors import UserError
from runs import ROOT

IMAGE = torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64)
ABOUT = {"names": ["one", "two", "three"], "ids": [1, 2, 3]}
RESNET_OUTPUTS = ["res2", "res3", "res4", "res5"]


def theirs_resnet() -> torch.nn.Module:
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=5).eval()
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    return model


def ours_resnet() -> ResNet:
    channels = [64, 64, 128, 256, 512]
    stages = [
        ResNet.make_stage(
            BasicBlock, 1, stride_per_block=[stride], in_channels=before, out_channels=after, norm="BN"
        )
        for stride, before, after in zip((1, 2, 2, 2), channels, channels[1:])
    ]
    return ResNet(BasicStem(3, 64, norm="BN"), stages, out_features=RESNET_OUTPUTS, freeze_at=2).eval()


@torch.no_grad()
def resnet_features(model: torch.nn.Module) -> list[Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(IMAGE))))
    features = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        features.append(x := stage(x))
    return features


def zoo_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names in detectron2://ImageNetPretrained/torchvision/R-50.pkl."""
    renamed = {}
    for name, tensor in state_dict.items():
        for k in (1, 2, 3, 4):
            name = name.replace(f"layer{k}.", f"res{k + 1}.")
        for k in (1, 2, 3):
            name = name.replace(f"bn{k}.", f"conv{k}.norm.")
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        renamed[name if name.startswith("res") else f"stem.{name}"] = tensor
    return renamed


def load(model: torch.nn.Module, state_dict: dict[str, Tensor]) -> tuple[str, list[str]]:
    kind, weights, unused = from_backbone(state_dict)
    result = model.load_state_dict({n.removeprefix("backbone."): t for n, t in weights.items()}, strict=False)
    allowed = ("norms.", "relative_position_index", "num_batches_tracked")
    assert not [name for name in result.missing_keys if not any(part in name for part in allowed)]
    assert not [name for name in result.unexpected_keys if "num_batches_tracked" not in name]
    return kind, unused


@pytest.mark.parametrize("rename, kind", [(dict, "torchvision or timm"), (zoo_names, "Detectron2")])
def test_a_resnet_gives_its_features(rename, kind):
    theirs, ours = theirs_resnet(), ours_resnet()
    recognised, unused = load(ours, rename(theirs.state_dict()))
    assert kind in recognised
    assert {name.split(".")[-2] for name in unused} == {"fc"} and len(unused) == 2
    with torch.no_grad():
        features = ours(IMAGE)
    for name, expected in zip(RESNET_OUTPUTS, resnet_features(theirs)):
        torch.testing.assert_close(features[name], expected)


def theirs_swin() -> torch.nn.Module:
    model = swin_transformer.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=8,
        depths=[2, 1, 1, 2],
        num_heads=[1, 1, 2, 2],
        window_size=[4, 4],
        num_classes=5,
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def original_names(state_dict: dict[str, Tensor], merging: str = "before") -> dict[str, Tensor]:
    """The names in swin_small_patch4_window7_224.pth; timm counts the merging to the stage after it."""
    renamed = {}
    for name, tensor in state_dict.items():
        if name.startswith("features.0."):
            name = name.replace("features.0.0", "patch_embed.proj").replace(
                "features.0.2", "patch_embed.norm"
            )
        elif name.startswith("features."):
            _, k, rest = name.split(".", 2)
            if int(k) % 2:
                rest = rest.replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
                name = f"layers.{int(k) // 2}.blocks.{rest}"
            else:
                stage = int(k) // 2 - (merging == "before")
                name = f"layers.{stage}.downsample.{rest}"
        if name.endswith("relative_position_index"):
            tensor = tensor.view(16, 16)
        renamed[name] = tensor
    if merging == "before":
        renamed["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return renamed


def timm_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in original_names(state_dict, "after").items()
        if not name.endswith("relative_position_index")
    }


@pytest.mark.parametrize(
    "rename, kind", [(dict, "torchvision"), (original_names, "its authors"), (timm_names, "timm")]
)
def test_a_swin_gives_its_features(rename, kind):
    theirs, ours = theirs_swin(), Swin(8, [2, 1, 1, 2], [1, 1, 2, 2], window_size=4).eval()
    recognised, unused = load(ours, rename(theirs.state_dict()))
    assert kind in recognised
    assert {name.split(".")[0] for name in unused} <= {"norm", "head", "layers"}
    with torch.no_grad():
        features = ours(IMAGE)
        x = IMAGE
        for i, norm in enumerate(ours.norms):
            x = theirs.features[2 * i + 1](theirs.features[2 * i](x))
            torch.testing.assert_close(features[f"stage{i + 1}"], norm(x).permute(0, 3, 1, 2))


def test_what_has_no_place_is_named():
    with pytest.raises(ValueError, match="ResNet of torchvision.*layer1.0.se.fc"):
        from_backbone({**theirs_resnet().state_dict(), "layer1.0.se.fc": torch.ones(1)})
    with pytest.raises(ValueError, match="looked for layer1"):
        from_backbone({"encoder.weight": torch.ones(1)})


def test_a_backbone_under_the_name_of_a_detectors(tiny_model):
    theirs = theirs_resnet().state_dict()
    _, alone, _ = from_backbone(theirs)
    prefixed = {f"backbone.{name}": tensor for name, tensor in theirs.items() if not name.startswith("fc.")}
    kind, converted, unused = from_backbone({**prefixed, "head.fc.weight": torch.ones(1)})
    assert kind == "ResNet of torchvision or timm" and unused == ["head.fc.weight"]
    assert converted.keys() == alone.keys() and all(torch.equal(t, alone[n]) for n, t in converted.items())
    ours = {n: t for n, t in tiny_model().state_dict().items() if n.startswith("backbone.")}
    assert from_backbone(ours)[1].keys() == ours.keys()


def test_a_file_of_the_zoo_loads_into_a_detector(tiny_model, tmp_path):
    model = tiny_model()
    weights = {
        name.removeprefix("backbone."): torch.randn_like(tensor.float()).numpy()
        for name, tensor in model.state_dict().items()
        if name.startswith("backbone.") and not name.endswith("tracked")
    }
    content = {
        "model": {**weights, "stem.fc.weight": weights["stem.conv1.weight"]},
        "__author__": "torchvision",
    }
    path = tmp_path / "R-8.pkl"
    path.write_bytes(pickle.dumps({**content, "matching_heuristics": True}, protocol=2))
    Checkpointer(model, about=ABOUT).load(str(path))
    for name, array in weights.items():
        assert (model.state_dict()[f"backbone.{name}"].numpy() == array).all()


def test_a_backbone_that_lacks_a_tensor_or_has_one_too_many_is_refused(tiny_model, tmp_path):
    state = {n: t for n, t in tiny_model().state_dict().items() if n.startswith("backbone.")}
    path = str(tmp_path / "weights.pth")
    torch.save({n: t for n, t in state.items() if n != "backbone.res3.0.conv1.weight"}, path)
    with pytest.raises(ValueError, match="checkpoint lacks.*backbone.res3.0.conv1.weight"):
        Checkpointer(tiny_model(), about=ABOUT).load(path)
    torch.save({**state, "backbone.res3.1.conv1.weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="model lacks.*backbone.res3.1.conv1.weight"):
        Checkpointer(tiny_model(), about=ABOUT).load(path)


def test_a_file_may_have_more_stages_than_the_model_but_no_deeper_ones(tiny_model, tmp_path):
    file = str(tmp_path / "resnet.pth")
    cfg = LazyConfig.load(str(ROOT / "configs/adamixer_r50_1x.py")).model.backbone

    def load_what_was_saved_of(depth):
        cfg.update(out_features=["res2", "res3", "res4", "res5"])
        cfg.stages.depth = depth
        torch.save({f"backbone.{n}": w for n, w in instantiate(cfg).state_dict().items()}, file)
        cfg.update(out_features=["res2", "res3", "res4"])
        cfg.stages.depth = 50
        model = tiny_model()
        model.backbone = instantiate(cfg)
        Checkpointer(model, about={"names": ["one"], "ids": [1]}).load(file)
        return model.backbone

    loaded = load_what_was_saved_of(50).state_dict()
    assert not any(name.startswith("res5") for name in loaded)
    assert all(torch.equal(w, loaded[n[9:]]) for n, w in torch.load(file).items() if "res5" not in n)
    with pytest.raises(UserError, match="the model lacks .*res4.6"):
        load_what_was_saved_of(101)
