"""Detectron2's yacs route builds what the LazyConfig route builds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2 import config
from detectron2.config import LazyConfig, instantiate

if not hasattr(config, "get_cfg"):
    pytest.skip(
        "this detectron2 has no get_cfg: its yacs config comes with the full Detectron2 alone",
        allow_module_level=True,
    )

from PIL import Image

from lors import GeneratedLowRank, LowRank, add_lors_config
from lors.checkpoints import load_detector, write
from lors.checkpoints.about import describe
from lors.data.classes import Classes
from lors.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"


def small_config():
    cfg = config.get_cfg()
    add_lors_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.INPUT.MAX_SIZE_TEST = 128
    cfg.MODEL.LORS.merge_from_list(
        "NUM_QUERIES 7 NUM_STAGES 2 QUERY_DIM 32 FEATURE_DIM 64 NUM_HEADS 2 FFN_DIM 32 GROUPS 2"
        " POINTS_IN 4 POINTS_OUT 4 ADAPTIVE_RANK 2 ADAPTIVE_GROUPS [1,2] STATIC_RANK 2"
        " STATIC_GROUPS [1,1] NUM_CLASSES 5".split()
    )
    return cfg


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def strides(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    return {n: m.stride for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}


@pytest.mark.parametrize("name, lors", [("lors_r50_1x", True), ("adamixer_r50_1x", False)])
def test_both_routes_build_the_same_model(name, lors):
    from detectron2.modeling import build_model

    cfg = config.get_cfg()
    add_lors_config(cfg)
    cfg.MODEL.DEVICE = "meta"
    if not lors:
        cfg.MODEL.LORS.ADAPTIVE = cfg.MODEL.LORS.STATIC = False
        cfg.MODEL.LORS.GROUPS, cfg.MODEL.LORS.POINTS_IN = 4, 32
    lazy = LazyConfig.load(str(CONFIGS / f"{name}.py")).model
    with torch.device("meta"):
        ours, theirs = build_model(cfg), instantiate(lazy)
    assert type(ours) is type(theirs)
    assert shapes(ours) == shapes(theirs)
    assert strides(ours) == strides(theirs)
    frozen = [{n for n, p in model.named_parameters() if not p.requires_grad} for model in (ours, theirs)]
    assert frozen[0] == frozen[1]
    assert ours.max_detections == theirs.max_detections
    assert ours.fixed_statistics == theirs.fixed_statistics
    assert cfg.MODEL.PIXEL_MEAN == list(lazy.pixel_mean) and cfg.MODEL.PIXEL_STD == list(lazy.pixel_std)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_the_rows_of_table_4_are_two_switches(adaptive, static):
    from detectron2.modeling import build_model

    cfg = small_config()
    cfg.MODEL.LORS.ADAPTIVE, cfg.MODEL.LORS.STATIC = adaptive, static
    bank = build_model(cfg).decoder.bank
    residuals = {} if bank is None else bank.residuals()
    kinds = {name: type(residual) for name, residual in residuals.items()}
    expected = {}
    if adaptive:
        expected = {f"mixing.{name}.weight": GeneratedLowRank for name in ("channel", "spatial")}
    if static:
        expected["mixing.output.weight"] = LowRank
    assert kinds == expected


@pytest.mark.parametrize("name, names", [("digits/lors_digits", "0123456789"), ("custom/tiny_cpu", "abc")])
def test_the_default_predictor_detects_what_predict_does(name, names, tmp_path):
    """At the config's size: the digits' images are not resized, the others are."""
    from detectron2.data.detection_utils import read_image
    from detectron2.engine import DefaultPredictor
    from detectron2.modeling import build_model

    cfg = config.get_cfg()
    add_lors_config(cfg, name)
    cfg.MODEL.LORS.NUM_CLASSES = len(names)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    file = str(CONFIGS / f"{name}.py")
    about = describe(LazyConfig.load(file), Classes(list(names), list(range(len(names)))))
    write(cfg.MODEL.WEIGHTS, {"model": build_model(cfg).state_dict(), "about": about})
    pixels = np.random.RandomState(0).randint(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")

    found = DefaultPredictor(cfg)(read_image(str(tmp_path / "image.png"), format="BGR"))["instances"]
    lazy, model = load_detector(file, cfg.MODEL.WEIGHTS, ["train.device=cpu"])
    mapper = instantiate(lazy.dataloader.test.mapper)
    with torch.no_grad():
        record = {"file_name": str(tmp_path / "image.png"), "height": 64, "width": 96}
        expected = model([mapper(record)])[0]["instances"]
    assert len(found) == 100 and found.image_size == expected.image_size
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    cfg.MODEL.LORS.NUM_CLASSES += 1
    with pytest.raises(UserError, match="NUM_CLASSES"):
        DefaultPredictor(cfg)


def test_the_default_predictor_runs_without_weights():
    from detectron2.engine import DefaultPredictor

    image = np.random.RandomState(0).randint(0, 256, (48, 80, 3), dtype=np.uint8)
    found = DefaultPredictor(small_config())(image)["instances"]
    assert found.image_size == (48, 80)
    # 7 queries x 5 classes
    assert len(found) == 35
    assert found.pred_boxes.tensor.isfinite().all()
