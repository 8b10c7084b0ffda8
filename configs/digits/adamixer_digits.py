"""The same with AdaMixer's plain decoder of the same shape."""

from ..common.models.banks import adamixer_bank
from ..common.models.small import bank_shape
from .lors_digits import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank = adamixer_bank(**bank_shape)
train.output_dir = "./output/adamixer_digits"
