"""tiny_cpu.py where attention and FFN are shared too: a third less of the decoder."""

from ..digits.lors_all_digits import model as _digits
from .tiny_cpu import dataloader, dataset, lr_multiplier, model, optimizer, train

model.decoder.bank = _digits.decoder.bank
train.output_dir = "./output/lors_all_tiny_cpu"
