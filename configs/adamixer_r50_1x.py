"""AdaMixer, ResNet-50, 100 queries, 12 epochs."""

from .common.models.banks import adamixer_bank
from .lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank = adamixer_bank()
train.output_dir = "./output/adamixer_r50_1x"
