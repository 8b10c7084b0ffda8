"""AdaMixer in the shape of LORS, 2 groups of 64 points: what merging gives and factorizing takes."""

from .adamixer_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.update(groups=2, points_in=64)
train.output_dir = "./output/adamixer_2x64_r50_1x"
