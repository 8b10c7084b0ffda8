"""AdaMixer so small that it learns from scratch in minutes on a CPU."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet

from lors.config import lors_bank

from .r50 import model

_channels = [16, 32, 64, 128]

model.backbone.stem.out_channels = 16
model.backbone.stages = [
    L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=2,
        stride_per_block=[stride, 1],
        in_channels=in_channels,
        out_channels=out_channels,
        norm="BN",
    )
    for stride, in_channels, out_channels in zip([1, 2, 2, 2], [16, *_channels], _channels)
]
model.backbone.freeze_at = 0
model.fixed_statistics = False  # from scratch, BatchNorm has statistics to learn
model.neck.update(in_channels=_channels, out_channels=64, num_groups=8)
model.queries.update(num_queries=30, query_dim=64)
model.decoder.update(num_stages=4, groups=2, points_in=16, points_out=32, num_classes=10, ffn_dim=256)

# LORS in the shape of this decoder.
small_bank = lors_bank(
    groups=2,
    channels=32,
    points_in=16,
    points_out=32,
    adaptive_rank=8,
    adaptive_groups=[1, 1, 2, 2],
    static_rank=8,
)
