"""LORS, Swin-S, 300 queries, 36 epochs."""

from lors.config import lors_bank

from .adamixer_swin_s_300q_3x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.update(groups=2, points_in=64)
model.decoder.bank = lors_bank()
train.output_dir = "./output/lors_swin_s_300q_3x"
