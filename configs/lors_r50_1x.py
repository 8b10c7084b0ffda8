"""LORS, ResNet-50, 100 queries, 12 epochs."""

from lors.config import lors_bank

from .adamixer_2x64_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank = lors_bank()
train.output_dir = "./output/lors_r50_1x"
