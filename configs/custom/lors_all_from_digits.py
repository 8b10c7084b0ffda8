"""lors_from_digits.py where attention and FFN are shared too, to start from lors_all_digits.py's detector."""

from ..digits.lors_all_digits import model as _digits
from .lors_from_digits import dataloader, dataset, lr_multiplier, model, optimizer, train

model.decoder.bank = _digits.decoder.bank
train.output_dir = "./output/lors_all_from_digits"
