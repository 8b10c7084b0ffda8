"""Table 8: 3 stages."""

from ..common.models.banks import lors_bank
from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank = lors_bank(stages=3, adaptive_groups=[1, 2, 3])
train.output_dir = "./output/table8_stages3"
