"""Table 4: plain channel and spatial mixing, LORS for the output projection."""

from ..common.models.banks import adamixer_bank
from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

_plain = adamixer_bank(groups=2, channels=128, points_in=64)
model.decoder.bank.channel, model.decoder.bank.spatial = _plain.channel, _plain.spatial
train.output_dir = "./output/table4_static_only"
