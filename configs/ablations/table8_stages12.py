"""Table 8: 12 stages."""

from lors.config import lors_bank

from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.num_stages = 12
model.decoder.bank = lors_bank(adaptive_groups=[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3])
train.output_dir = "./output/table8_stages12"
