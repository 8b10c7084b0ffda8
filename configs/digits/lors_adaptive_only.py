"""Table 4 in small: LORS for channel and spatial mixing, each stage's own output projection."""

from .lors_digits import dataloader, lr_multiplier, model, optimizer, train

del model.decoder.bank.residual.output
train.output_dir = "./output/lors_adaptive_only"
