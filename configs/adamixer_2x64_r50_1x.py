"""AdaMixer in the shape of LORS, 2 groups of 64 points: what merging gives and factorizing takes."""

from .common.models.banks import adamixer_bank
from .lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank = adamixer_bank(groups=2, channels=128, points_in=64)
train.output_dir = "./output/adamixer_2x64_r50_1x"
