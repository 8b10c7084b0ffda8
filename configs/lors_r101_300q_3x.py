"""LORS, ResNet-101, 300 queries, 36 epochs."""

from .lors_r50_300q_3x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.stages.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-101.pkl"
train.output_dir = "./output/lors_r101_300q_3x"
