"""AdaMixer, ResNet-50, 100 queries, 12 epochs."""

from .common.data.coco import dataloader
from .common.models.r50 import model
from .common.optim import AdamW as optimizer
from .common.schedule import step_schedule
from .common.train import train

train.epochs = 12
lr_multiplier = step_schedule(epochs=12, drops=[8, 11])
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "./output/adamixer_r50_1x"
