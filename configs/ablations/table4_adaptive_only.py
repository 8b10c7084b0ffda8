"""Table 4: LORS for channel and spatial mixing, each stage's own output projection."""

from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

del model.decoder.bank.residual.output
train.output_dir = "./output/table4_adaptive_only"
