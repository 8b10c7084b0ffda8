"""LORS, ResNet-50, 100 queries, 36 epochs."""

from .common.data.coco import crop_or_resize, dataloader
from .common.schedule import step_schedule
from .lors_r50_1x import model, optimizer, train

dataloader.train.mapper.augmentations = crop_or_resize
train.epochs = 36
lr_multiplier = step_schedule(epochs=36, drops=[24, 33])
train.output_dir = "./output/lors_r50_3x"
