"""A dataset of your own in COCO format, from scratch, on one GPU or none.

    python train_net.py --config-file configs/custom/lors_custom.py \
        dataset.train_json=... dataset.train_images=... dataset.test_json=... dataset.test_images=...

The number of classes and their names come from the training JSON.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from lors.data import RandomChoice, num_classes, register_coco

from ..common.data.coco import dataloader
from ..common.models.small import model
from ..digits.lors_digits import lr_multiplier, optimizer, train

dataset = dict(train_json="", train_images="", test_json="", test_images="")

dataloader.train.dataset.names = L(register_coco)(
    json_file="${dataset.train_json}", image_root="${dataset.train_images}"
)
dataloader.test.dataset.names = L(register_coco)(
    json_file="${dataset.test_json}", image_root="${dataset.test_images}"
)


def _resize(*short_edges):
    return L(T.ResizeShortestEdge)(
        short_edge_length=list(short_edges), max_size=2 * max(short_edges), sample_style="choice"
    )


# A small dataset is soon known by heart: each image is seen at many sizes and in other light, and every other
# time a part of it.
_light = dict(intensity_min=0.7, intensity_max=1.3)
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(),
    L(RandomChoice)(
        policies=[
            [_resize(192, 208, 224, 240, 256, 272, 288)],
            [
                _resize(240, 288, 336),
                L(T.RandomCrop)(crop_type="absolute_range", crop_size=[160, 240]),
                _resize(192, 208, 224, 240, 256, 272, 288),
            ],
        ]
    ),
    L(T.RandomBrightness)(**_light),
    L(T.RandomContrast)(**_light),
    L(T.RandomSaturation)(**_light),
]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=240, max_size=320)]
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = dataloader.test.num_workers = 2

model.decoder.num_classes = L(num_classes)(dataset="${dataloader.train.dataset.names}")
model.queries.num_queries = 60

train.max_iter = 3600
train.eval_period = train.max_iter
train.output_dir = "./output/lors_custom"
