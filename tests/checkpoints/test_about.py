"""What a checkpoint says of its training."""

from __future__ import annotations

import pytest
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import transforms as T

from lors.checkpoints.about import adopt, check_held_out, describe
from lors.data.classes import Classes
from runs import ROOT


@pytest.mark.parametrize(
    "changes, warned",
    [
        ({}, False),
        ({"val_seed": 7}, True),
        ({"val_fraction": 0.5}, True),
        ({"val_fraction": 0}, False),
    ],
)
def test_other_images_held_out_than_in_training_are_warned_of(changes, warned, caplog):
    cfg = LazyConfig.load(str(ROOT / "configs/custom/tiny_cpu.py"))
    cfg.dataset.val_fraction = 0.25
    about = describe(cfg, Classes(["a"], [1]))
    cfg.dataset.update(changes)
    check_held_out(cfg, about)
    assert ("it was trained on" in caplog.text) == warned


def test_test_images_without_a_longest_side(data):
    cfg = LazyConfig.load(str(ROOT / "configs/custom/tiny_cpu.py"))
    cfg.dataloader.test.mapper.augmentations = [LazyCall(T.ResizeShortestEdge)(short_edge_length=240)]
    about = describe(cfg, Classes(["one"], [1]))
    other = LazyConfig.load(str(ROOT / "configs/custom/tiny_cpu.py"))
    adopt(other, about)
    mapper = instantiate(other.dataloader.test.mapper)
    assert mapper({"file_name": f"{data}/train/000001.png"})["image"].shape == (3, 240, 240)
