"""The same, in the shape of the digits' detector, to start from it.

    python train_net.py --config-file configs/custom/lors_from_digits.py \
        train.init_checkpoint=output/lors_digits/model_final.pth dataset.train_json=... ...
"""

from ..digits.adamixer_digits import model as _digits
from .tiny_cpu import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.out_features = _digits.backbone.out_features
model.neck.in_channels = _digits.neck.in_channels
model.decoder.strides = _digits.decoder.strides
model.queries.num_queries = _digits.queries.num_queries
train.output_dir = "./output/lors_from_digits"
