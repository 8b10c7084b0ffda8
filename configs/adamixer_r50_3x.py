"""AdaMixer, ResNet-50, 100 queries, 36 epochs: no crop, later drops."""

from .adamixer_r50_1x import model, optimizer, train
from .common.data.coco import dataloader, multi_scale
from .common.schedule import step_schedule

dataloader.train.mapper.augmentations = multi_scale
train.epochs = 36
lr_multiplier = step_schedule(epochs=36, drops=[27, 33])
train.output_dir = "./output/adamixer_r50_3x"
