"""Table 4: each stage's own channel and spatial mixing, LORS for the output projection."""

from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

del model.decoder.bank.residual.channel, model.decoder.bank.residual.spatial
train.output_dir = "./output/table4_static_only"
