"""A detector that learns from scratch in minutes on a CPU."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from lors.adamixer import Decoder, Queries
from lors.detector import AdaMixer
from lors.neck import Neck

from .banks import lors_bank

_channels = [16, 32, 64, 128]

# The bank's shape, so that a config can give the plain bank the same one.
bank_shape = dict(stages=4, query_dim=64, groups=2, channels=32, points_in=16, points_out=32)

model = L(AdaMixer)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=16, norm="BN"),
        stages=[
            L(ResNet.make_stage)(
                block_class=BasicBlock,
                num_blocks=2,
                stride_per_block=[stride, 1],
                in_channels=in_channels,
                out_channels=out_channels,
                norm="BN",
            )
            for stride, in_channels, out_channels in zip([1, 2, 2, 2], [16, *_channels], _channels)
        ],
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=0,
    ),
    in_features="${.backbone.out_features}",
    neck=L(Neck)(in_channels=_channels, out_channels=64, num_groups=8),
    queries=L(Queries)(num_queries=30, query_dim=64),
    decoder=L(Decoder)(
        bank=lors_bank(**bank_shape, adaptive_rank=8, adaptive_groups=[1, 1, 2, 2], static_rank=8),
        num_classes=10,
        num_heads=8,
        ffn_dim=256,
        strides=[4, 8, 16, 32],
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    max_detections=100,
    fixed_statistics=False,  # from scratch, BatchNorm has statistics to learn
)
