"""Swin as a backbone of Detectron2: its features are tested where other programs' weights are loaded."""

from __future__ import annotations

import pytest
import torch

from lors.backbones import Swin


def small_swin(**arguments) -> Swin:
    return Swin(8, [1, 1, 2, 1], [1, 1, 2, 2], window_size=4, **arguments)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (160, 32)])
def test_outputs_are_as_output_shape_says(size):
    names = ["a", "b", "c", "d"]
    backbone = small_swin(out_features=names).eval()
    features = backbone(torch.randn(2, 3, *size))
    shapes = backbone.output_shape()
    assert list(features) == list(shapes) == names
    for i, name in enumerate(names):
        assert (shapes[name].channels, shapes[name].stride) == (8 * 2**i, 4 * 2**i)
        stride = shapes[name].stride
        assert features[name].shape == (2, shapes[name].channels, size[0] // stride, size[1] // stride)


def test_blocks_are_dropped_in_training_alone():
    backbone, image = small_swin(drop_path=0.9), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        first, second = (backbone.train()(image)["stage4"] for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (backbone.eval()(image)["stage4"] for _ in range(2))
        assert torch.equal(first, second)


def test_every_parameter_learns():
    backbone = small_swin(drop_path=0.0)
    loss = sum((x * torch.randn_like(x)).sum() for x in backbone(torch.randn(1, 3, 64, 64)).values())
    loss.backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []
