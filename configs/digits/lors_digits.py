"""The same with LORS: the stages share weights."""

from ..common.models.small import small_bank as _bank
from .adamixer_digits import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank = _bank
train.output_dir = "./output/lors_digits"
