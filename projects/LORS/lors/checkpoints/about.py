"""What a checkpoint says of its detector beside the weights: classes and how images come in."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from lors.data.classes import Classes

logger = logging.getLogger(__name__)

About = dict[str, Any]
_BIAS = "decoder.stages.0.classify.3.bias"


def describe(cfg: DictConfig, classes: Classes) -> About:
    """Classes' "names" and "ids", "image_format", "test_size" (shorter and longest side), "held_out"."""
    steps = [OmegaConf.to_container(step) for step in resizes(cfg)]
    return {
        "names": list(classes.names),
        "ids": list(classes.ids),
        "image_format": cfg.dataloader.train.mapper.image_format,
        "test_size": [[step["short_edge_length"], step["max_size"]] for step in steps],
        "held_out": _held_out(cfg),
    }


def about_of(content: Mapping[str, Any], kind: str, weights: Mapping[str, Any]) -> About:
    """What a file says of itself; of others' files as much as they tell, and "number", of the classes."""
    meta = content.get("meta") if isinstance(content.get("meta"), Mapping) else {}
    about = dict(content.get("about") or {})
    if _BIAS in weights:
        about["number"] = len(weights[_BIAS])
    names = meta.get("CLASSES") or meta.get("dataset_meta", {}).get("classes")
    coco = MetadataCatalog.get("coco_2017_train")
    if "names" not in about and names:
        about.update(names=list(names), ids=list(range(len(names))))
    elif "names" not in about and kind.endswith("of its authors") and about.get("number") == 80:
        about.update(names=coco.thing_classes, ids=list(coco.thing_dataset_id_to_contiguous_id))
    return about


def adopt(cfg: DictConfig, about: About) -> None:
    """Set in a config what a checkpoint knows; its dataset is then not needed."""
    if "number" in about and "num_classes" in (OmegaConf.select(cfg, "model.decoder") or {}):
        cfg.model.decoder.num_classes = about["number"]
    if "image_format" not in about or OmegaConf.select(cfg, "dataloader.test.mapper") is None:
        return
    cfg.dataloader.test.mapper.image_format = about["image_format"]
    steps = resizes(cfg)
    if len(steps) != len(about["test_size"]):
        logger.warning(
            "Test images: the checkpoint's are %s, the config's are taken",
            about["test_size"] or "not resized",
        )
        return
    for step, (short_edge, longest) in zip(steps, about["test_size"]):
        step.update(short_edge_length=short_edge, max_size=longest)


def check_held_out(cfg: DictConfig, about: About) -> None:
    """Warns where other images are held out than in the training that a checkpoint is from."""
    own, theirs = _held_out(cfg), about.get("held_out")
    if own and own != theirs:
        logger.warning(
            "The checkpoint's training held out %s, and %s is held out now: "
            "it may be tested on images that it was trained on",
            theirs or "no images",
            own,
        )


def _held_out(cfg: DictConfig) -> str:
    dataset = cfg.get("dataset") or {}
    share, seed = dataset.get("val_fraction"), dataset.get("val_seed")
    return f"dataset.val_fraction={share:g} with val_seed={seed}" if share else ""


def resizes(cfg: DictConfig) -> list[DictConfig]:
    """The test images' augmentations that resize; one without a `max_size` gets Detectron2's default."""
    steps = OmegaConf.select(cfg, "dataloader.test.mapper.augmentations") or []
    steps = [step for step in steps if "short_edge_length" in step]
    for step in steps:
        step.setdefault("max_size", sys.maxsize)
    return steps
