"""LORS for attention and FFN as well, with ranks as small beside the widths as the paper's."""

from detectron2.config import LazyCall as L

from lors import LowRank

from .lors_digits import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank.residual.update(attention=L(LowRank)(rank=4), ffn=L(LowRank)(rank=4))
model.decoder.bank.residual.channel.rank = model.decoder.bank.residual.spatial.rank = 4
model.decoder.bank.residual.output.rank = 2
train.output_dir = "./output/lors_all_digits"
