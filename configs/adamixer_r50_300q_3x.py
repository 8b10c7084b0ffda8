"""AdaMixer, ResNet-50, 300 queries, 36 epochs."""

from .adamixer_r50_1x import model, optimizer
from .lors_r50_3x import dataloader, lr_multiplier, train

model.queries.num_queries = model.max_detections = 300
train.output_dir = "./output/adamixer_r50_300q_3x"
