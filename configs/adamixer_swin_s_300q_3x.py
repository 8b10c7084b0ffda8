"""AdaMixer, Swin-S, 300 queries, 36 epochs."""

from .adamixer_r50_300q_3x import dataloader, model, train
from .common.models.swin_s import backbone, in_channels
from .common.optim import AdamW_swin as optimizer
from .common.schedule import step_schedule

model.backbone = backbone
model.neck.in_channels = in_channels
lr_multiplier = step_schedule(epochs=36, drops=[24, 33], warmup=1000)
train.init_checkpoint = (
    "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth"
)
train.output_dir = "./output/adamixer_swin_s_300q_3x"
