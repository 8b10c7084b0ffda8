"""AdaMixer on handwritten digits on cluttered canvases, from scratch in minutes on a CPU."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from lors.data import register_digits

from ..common.data.coco import dataloader
from ..common.models.small import model
from ..common.optim import AdamW as optimizer
from ..common.train import train

dataloader.train.dataset.names = L(register_digits)(split="train")
dataloader.test.dataset.names = L(register_digits)(split="test")
dataloader.train.mapper.augmentations = []
dataloader.test.mapper.augmentations = []
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = dataloader.test.num_workers = 0

# Digits are at most 48 pixels high: strides 4 to 16 will do.
model.backbone.out_features = ["res2", "res3", "res4"]
model.neck.in_channels = model.neck.in_channels[:3]
model.decoder.strides = [4, 8, 16]
# Stage 0 sees one and the same box for all queries: it has most of the loss and can lower it least.
model.criterion.stage_weights = [0.1, 0.5, 1.0, 1.0]

optimizer.lr = 1.3e-3
# Queries start far from where they end, and Adam moves each of their numbers by about the rate a step.
optimizer.params.overrides = dict(content=dict(lr=1e-2))
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    warmup_length=0.03,
    warmup_method="linear",
    warmup_factor=0.001,
)

train.reference_gpus = 1
train.max_iter = 2100
train.eval_period = train.max_iter
train.checkpointer.period = 500
train.seed = 1
train.output_dir = "./output/adamixer_digits"
