"""Table 5: channel and spatial mixing without the private term."""

from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank.residual.channel.private = model.decoder.bank.residual.spatial.private = False
train.output_dir = "./output/table5_shared_only"
