"""For a dataset of your own and a small GPU or none: a backbone of timm with ImageNet weights.

    python tools/convert.py --timm tf_efficientnet_lite0 output/lite0.pth    # timm downloads them
    python train_net.py --config-file configs/custom/timm_finetune.py \
        dataset.train_json=... dataset.train_images=...
"""

from detectron2.config import LazyCall as L

from lors.backbones.timm import Timm

from .tiny_cpu import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone = L(Timm)(
    name="tf_efficientnet_lite0", strides=[4, 8, 16, 32], out_features=["res2", "res3", "res4", "res5"]
)
model.neck.in_channels = [24, 40, 112, 320]
# What this model of timm was trained with
model.pixel_mean = model.pixel_std = [127.5, 127.5, 127.5]
model.fixed_statistics = True

# It has learnt already; a tenth of the rate keeps what it knows.
optimizer.params.lr_factor_func.backbone = 0.1

train.init_checkpoint = "output/lite0.pth"
train.output_dir = "./output/timm_finetune"
