"""Table 5: channel and spatial mixing without the shared term."""

from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

model.decoder.bank.residual.channel.shared = model.decoder.bank.residual.spatial.shared = False
train.output_dir = "./output/table5_private_only"
