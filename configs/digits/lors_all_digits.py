"""LORS for attention and FFN as well; what that saves is spent on rank."""

from detectron2.config import LazyCall as L

from lors import LowRank

from .lors_digits import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank.residual.update(attention=L(LowRank)(rank=8), ffn=L(LowRank)(rank=8))
model.decoder.bank.residual.output.rank = 12
train.output_dir = "./output/lors_all_digits"
