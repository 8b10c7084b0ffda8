"""AdaMixer, ResNet-50, 300 queries, 36 epochs."""

from .adamixer_r50_300q_1x import model, optimizer, train
from .common.data.coco import crop_or_resize, dataloader
from .common.schedule import step_schedule

dataloader.train.mapper.augmentations = crop_or_resize
train.epochs = 36
lr_multiplier = step_schedule(epochs=36, drops=[24, 33])
train.output_dir = "./output/adamixer_r50_300q_3x"
