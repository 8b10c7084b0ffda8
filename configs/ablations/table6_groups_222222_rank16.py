"""Table 6: adaptive groups [2, 2, 2, 2, 2, 2], rank 16."""

from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank.residual.channel.groups = model.decoder.bank.residual.spatial.groups = [2, 2, 2, 2, 2, 2]
train.output_dir = "./output/table6_groups_222222_rank16"
