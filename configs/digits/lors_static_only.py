"""Table 4 in small: each stage's own channel and spatial mixing, LORS for the output projection."""

from .lors_digits import dataloader, lr_multiplier, model, optimizer, train

del model.decoder.bank.residual.channel, model.decoder.bank.residual.spatial
train.output_dir = "./output/lors_static_only"
