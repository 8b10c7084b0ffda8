"""Detectron2's yacs route, for DefaultPredictor and DefaultTrainer: `build_model(cfg)`."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

import lors.detector  # noqa: F401  registers "AdaMixer"
from lors.adamixer import Decoder, Queries
from lors.bank import ParameterBank
from lors.neck import Neck
from lors.stack import DenseGenerator, DenseLinear, LORSGenerator, LORSLinear


def add_lors_config(cfg: CfgNode) -> None:
    """Adds MODEL.LORS to a Detectron2 config and sets what the method asks of the other keys (R-50, COCO)."""
    cfg.MODEL.META_ARCHITECTURE = "AdaMixer"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.LORS = CfgNode(
        dict(
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
            # AdaMixer's own weights where False; a LORS bank else
            ADAPTIVE=True,
            ADAPTIVE_RANK=16,
            ADAPTIVE_GROUPS=[1, 1, 2, 2, 3, 3],
            STATIC=True,
            STATIC_RANK=8,
            STATIC_GROUPS=[1, 1, 1, 1, 1, 1],
        )
    )


def model_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of `AdaMixer` for a config that `add_lors_config` has extended."""
    from detectron2.modeling import (
        build_backbone,
    )  # the light runtime has no yacs defaults to build from

    node = cfg.MODEL.LORS
    backbone = build_backbone(cfg)
    in_features = cfg.MODEL.RESNETS.OUT_FEATURES
    outputs = [backbone.output_shape()[name] for name in in_features]
    return dict(
        backbone=backbone,
        in_features=in_features,
        neck=Neck([output.channels for output in outputs], node.FEATURE_DIM),
        queries=Queries(node.NUM_QUERIES, node.QUERY_DIM),
        decoder=Decoder(
            _bank(node),
            node.NUM_CLASSES,
            num_heads=node.NUM_HEADS,
            ffn_dim=node.FFN_DIM,
            strides=[output.stride for output in outputs],
        ),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        max_detections=max(100, node.NUM_QUERIES),
    )


def _bank(node: CfgNode) -> ParameterBank:
    channels = node.FEATURE_DIM // node.GROUPS
    features = node.GROUPS * node.POINTS_OUT * channels

    def generator(shape):
        if node.ADAPTIVE:
            return LORSGenerator(
                node.NUM_STAGES, node.QUERY_DIM, shape, node.ADAPTIVE_RANK, node.ADAPTIVE_GROUPS
            )
        return DenseGenerator(node.NUM_STAGES, node.QUERY_DIM, shape)

    if node.STATIC:
        output = LORSLinear(node.NUM_STAGES, features, node.QUERY_DIM, node.STATIC_RANK, node.STATIC_GROUPS)
    else:
        output = DenseLinear(node.NUM_STAGES, features, node.QUERY_DIM)
    return ParameterBank(
        channel=generator((node.GROUPS, channels, channels)),
        spatial=generator((node.GROUPS, node.POINTS_IN, node.POINTS_OUT)),
        output=output,
    )
