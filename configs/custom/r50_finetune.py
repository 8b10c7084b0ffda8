"""For a dataset of your own and one GPU: ResNet-50 from ImageNet's weights, or a whole detector fine-tuned.

    python train_net.py --config-file configs/custom/r50_finetune.py \
        dataset.train_json=... dataset.train_images=... dataset.val_fraction=0.2

Of the paper's size, on images of 640 to 800 pixels. `train.init_checkpoint` takes a detector instead, of any
classes; `model.decoder.bank=null` trains AdaMixer. The rates are DETR's: 1e-4, and a tenth for the backbone.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from fvcore.common.param_scheduler import CosineParamScheduler

from lors.training.schedule import warm_up

from ..lors_r50_1x import model, optimizer, train
from .tiny_cpu import dataloader, dataset
from .tiny_cpu import model as _tiny

dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(
        short_edge_length=[640, 672, 704, 736, 768, 800], max_size=1333, sample_style="choice"
    ),
    L(T.RandomFlip)(),
    L(T.RandomFlip)(prob="${dataset.vertical_flip}", horizontal=False, vertical=True),
    L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)]
dataloader.train.total_batch_size = 8

model.decoder.num_classes = _tiny.decoder.num_classes

optimizer.lr = 1e-4
optimizer.params.lr_factor_func.backbone = 0.1
lr_multiplier = L(warm_up)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    iterations=100,
    max_iter="${train.max_iter}",
)

train.epochs = 50
train.reference_gpus = 1
train.amp.update(enabled=train.device == "cuda", precision="bfloat16")
train.ema_decay = 0.999
train.output_dir = "./output/r50_finetune"
