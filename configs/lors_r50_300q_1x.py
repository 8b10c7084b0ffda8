"""LORS, ResNet-50, 300 queries, 12 epochs."""

from .lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.queries.num_queries = model.max_detections = 300
train.output_dir = "./output/lors_r50_300q_1x"
