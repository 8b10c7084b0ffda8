"""Table 4: LORS for channel and spatial mixing, a plain output projection."""

from ..common.models.banks import adamixer_bank
from ..lors_r50_1x import dataloader, lr_multiplier, model, optimizer, train

_plain = adamixer_bank(groups=2, channels=128, points_in=64)
model.decoder.bank.output = _plain.output
train.output_dir = "./output/table4_adaptive_only"
