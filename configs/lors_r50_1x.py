"""LORS, ResNet-50, 100 queries, 12 epochs (Table 2, row 2)."""

from .common.data.coco import dataloader
from .common.models.r50 import model
from .common.optim import AdamW as optimizer
from .common.schedule import COCO_ITERATIONS_PER_EPOCH, step_schedule
from .common.train import train

lr_multiplier = step_schedule(epochs=12, drops=[8, 11])
train.max_iter = 12 * COCO_ITERATIONS_PER_EPOCH
train.eval_period = train.checkpointer.period = COCO_ITERATIONS_PER_EPOCH
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "./output/lors_r50_1x"
