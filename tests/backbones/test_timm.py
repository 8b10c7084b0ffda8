"""timm's models as backbones of Detectron2."""

from __future__ import annotations

import pytest
import timm
import torch

from lors.backbones.timm import Timm
from lors.checkpoints.timm import pretrained


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet18", {}),
        ("tf_efficientnet_lite0", {}),
        ("swin_tiny_patch4_window7_224", {"img_size": (64, 96)}),
    ],
)
def test_outputs_are_as_output_shape_says(name, options):
    backbone = Timm(name, strides=(8, 16, 32), out_features=("a", "b", "c"), **options).eval()
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 64, 96))
    shapes = backbone.output_shape()
    assert list(features) == list(shapes) == ["a", "b", "c"]
    for stride, (key, found) in zip((8, 16, 32), features.items()):
        assert shapes[key].stride == stride
        assert found.shape == (2, shapes[key].channels, 64 // stride, 96 // stride)


def test_the_last_output_of_a_stride_is_that_of_the_whole_model():
    whole = Timm("vit_tiny_patch16_224", [16], ["p4"], img_size=32, depth=5).body.model
    assert len(whole.blocks) == 5


def test_a_frozen_one_has_no_backward_pass():
    for frozen in (False, True):
        backbone = Timm("tf_efficientnet_lite0", frozen=frozen)
        maps = backbone(torch.rand(1, 3, 64, 64))
        assert all(each.requires_grad != frozen for each in maps.values())
        assert all(p.requires_grad != frozen for p in backbone.parameters())


@pytest.mark.parametrize("form", ["timm's", "renamed", "with averages"])
def test_weights_of_the_whole_model_become_the_backbones(form, tmp_path):
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    weights = whole.state_dict()
    if form == "renamed":  # as in other programs, in the same order
        weights = {f"_{i}": tensor for i, tensor in enumerate(weights.values())}
    if form == "with averages":  # as timm's training saves them
        last = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        weights = {"state_dict": last, "state_dict_ema": weights}
    torch.save(weights, tmp_path / "whole.pth")
    found = pretrained("tf_efficientnet_lite0", str(tmp_path / "whole.pth"))
    backbone = Timm("tf_efficientnet_lite0").eval()
    backbone.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in found.items()})
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = whole.blocks(whole.bn1(whole.conv_stem(x)))
        torch.testing.assert_close(backbone(x)["res5"], expected)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match="vit_tiny_patch16_224.*stride 4"):
        Timm("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="no_such_model"):
        Timm("no_such_model")
    with pytest.raises(ValueError, match="no_such_model"):
        pretrained("no_such_model")
    (tmp_path / "no.pth").write_text("Not Found")
    with pytest.raises(ValueError, match="no.pth"):
        pretrained("resnet18", str(tmp_path / "no.pth"))
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth.*tf_efficientnet_lite0"):
        pretrained("tf_efficientnet_lite0", str(tmp_path / "other.pth"))
