"""Table 7: static rank 16."""

from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank.residual.output.rank = 16
train.output_dir = "./output/table7_rank16"
