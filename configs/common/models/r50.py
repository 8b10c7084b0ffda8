"""AdaMixer with ResNet-50; every stage has weights of its own."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.resnet import BasicStem, ResNet

from lors.adamixer import AdaMixer, Decoder, DecoderStage, HungarianMatcher, Neck, Queries, SetCriterion

model = L(AdaMixer)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="BN"),
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=2,
    ),
    in_features="${.backbone.out_features}",
    neck=L(Neck)(in_channels=[256, 512, 1024, 2048], out_channels=256),
    queries=L(Queries)(num_queries=100, query_dim=256),
    decoder=L(Decoder)(
        num_stages=6,
        query_dim="${..queries.query_dim}",
        feature_dim="${..neck.out_channels}",
        groups=4,
        points_in=32,
        points_out=128,
        num_classes=80,
        num_heads=8,
        ffn_dim=2048,
        strides=[4, 8, 16, 32],
        stage=DecoderStage,
        bank=None,
        activation_checkpointing=False,
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(class_cost=2.0, l1_cost=5.0, giou_cost=2.0, alpha=0.25, gamma=2.0),
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
        alpha=0.25,
        gamma=2.0,
        stage_weights=None,
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    max_detections=100,
    fixed_statistics=True,
)
