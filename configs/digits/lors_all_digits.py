"""LORS for attention and FFN as well; what that saves is spent on rank, most of it on the last stage's."""

from detectron2.config import LazyCall as L

from lors import LowRank

from .lors_digits import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank.residual.update(attention=L(LowRank)(rank=8), ffn=L(LowRank)(rank=8))
model.decoder.bank.residual.output.rank = 16
model.decoder.bank.residual.channel.groups = model.decoder.bank.residual.spatial.groups = [1, 1, 2, 4]
train.output_dir = "./output/lors_all_digits"
