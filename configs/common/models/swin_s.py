from detectron2.config import LazyCall as L

from lors.backbones import Swin

in_channels = [96, 192, 384, 768]
backbone = L(Swin)(
    embed_dim=96,
    depths=[2, 2, 18, 2],
    num_heads=[3, 6, 12, 24],
    window_size=7,
    drop_path=0.2,
    out_features=["stage1", "stage2", "stage3", "stage4"],
)
