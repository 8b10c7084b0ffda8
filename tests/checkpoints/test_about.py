"""What a checkpoint says of its training."""

from __future__ import annotations

import pytest
from detectron2.config import LazyConfig

from lors.checkpoints.about import check_held_out, describe
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
