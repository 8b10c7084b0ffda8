"""Detectron2's yacs configs, for its DefaultPredictor: MODEL.LORS and what is built from it."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, instantiate
from torch import nn

from lors.adamixer import Decoder, HungarianMatcher, Neck, Queries, SetCriterion
from lors.checkpoints.about import resizes
from lors.config import lors_bank
from lors.errors import UserError
from lors.model_zoo import get_config
from lors.sharing import Bank

# Arguments of the decoder that are keys of MODEL.LORS
_DECODER = ("num_stages", "query_dim", "feature_dim", "groups", "points_in", "points_out", "num_classes")
_DECODER += ("num_heads", "ffn_dim")


def add_lors_config(cfg: CfgNode, config: str = "") -> None:
    """Adds MODEL.LORS to a Detectron2 config and sets what the method asks of the other keys (R-50, COCO).

    Args:
        config: a name of `lors.model_zoo`, whose model is built and whose test images' size and channels are
            set; of MODEL.LORS, NUM_CLASSES alone then means anything.
    """
    cfg.MODEL.META_ARCHITECTURE = "AdaMixer"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.LORS = CfgNode(
        dict(
            CONFIG=config,
            NUM_CLASSES=80,
            NUM_QUERIES=100,
            NUM_STAGES=6,
            QUERY_DIM=256,
            FEATURE_DIM=256,
            NUM_HEADS=8,
            FFN_DIM=2048,
            GROUPS=2,
            POINTS_IN=64,
            POINTS_OUT=128,
            # AdaMixer's own weights where False
            ADAPTIVE=True,
            ADAPTIVE_RANK=16,
            ADAPTIVE_GROUPS=[1, 1, 2, 2, 3, 3],
            STATIC=True,
            STATIC_RANK=8,
            STATIC_GROUPS=[1, 1, 1, 1, 1, 1],
        )
    )
    if config:
        lazy = get_config(config)
        cfg.INPUT.FORMAT = lazy.dataloader.test.mapper.image_format
        # Detectron2 leaves images as they are with 0.
        cfg.INPUT.MIN_SIZE_TEST = 0
        for step in resizes(lazy):
            cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = step.short_edge_length, step.max_size
        if isinstance(lazy.model.decoder.num_classes, int):  # and not asked of a dataset
            cfg.MODEL.LORS.NUM_CLASSES = lazy.model.decoder.num_classes


def model_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of `AdaMixer` for a config that `add_lors_config` has extended."""
    # the light runtime has no yacs defaults to build from
    from detectron2.modeling import build_backbone

    node = cfg.MODEL.LORS
    if node.CONFIG:
        model = get_config(node.CONFIG).model
        model.decoder.num_classes = node.NUM_CLASSES
        arguments = {name: instantiate(part) for name, part in model.items() if name != "_target_"}
        arguments["decoder"].register_load_state_dict_post_hook(_refuse_other_classes)
        return arguments
    backbone = build_backbone(cfg)
    in_features = cfg.MODEL.RESNETS.OUT_FEATURES
    outputs = [backbone.output_shape()[name] for name in in_features]
    return dict(
        backbone=backbone,
        in_features=in_features,
        neck=Neck([output.channels for output in outputs], node.FEATURE_DIM),
        queries=Queries(node.NUM_QUERIES, node.QUERY_DIM),
        decoder=Decoder(
            **{name: node[name.upper()] for name in _DECODER},
            strides=[output.stride for output in outputs],
            bank=_bank(node),
        ),
        criterion=SetCriterion(HungarianMatcher()),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        max_detections=max(100, node.NUM_QUERIES),
    )


def _refuse_other_classes(decoder: nn.Module, keys: Any) -> None:
    """Detectron2's checkpointer leaves out what does not fit, and would go on with random classifiers."""
    missing = [name for name in keys.missing_keys if ".classify." in name or ".regress." in name]
    if missing and all(".classify." in name for name in missing):
        raise UserError(f"MODEL.LORS.NUM_CLASSES={decoder.num_classes}: the weights have another number")


def _bank(node: CfgNode) -> Bank | None:
    bank = lors_bank(
        node.GROUPS,
        node.FEATURE_DIM // node.GROUPS,
        node.POINTS_IN,
        node.POINTS_OUT,
        node.ADAPTIVE_RANK,
        node.ADAPTIVE_GROUPS,
        node.STATIC_RANK,
        node.STATIC_GROUPS,
    )
    wanted = dict(channel=node.ADAPTIVE, spatial=node.ADAPTIVE, output=node.STATIC)
    for name in [name for name, kept in wanted.items() if not kept]:
        del bank.residual[name]
    return instantiate(bank) if any(wanted.values()) else None
