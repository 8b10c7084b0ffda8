"""For a dataset of your own and no GPU: a small detector, from scratch or fine-tuned, in minutes.

    python train_net.py --config-file configs/custom/tiny_cpu.py \
        dataset.train_json=... dataset.train_images=... dataset.test_json=... dataset.test_images=...

The number of classes and their names come from the training annotations, in COCO's or Pascal VOC's format.
`model.decoder.bank=null` trains AdaMixer.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from lors.data import RandomChoice, num_classes, register_split

from ..common.data.coco import dataloader
from ..common.models.small import model
from ..common.models.small import small_bank as _bank
from ..digits.lors_digits import lr_multiplier, optimizer, train

dataset = dict(
    # A COCO JSON file and its folder of images; or a folder of VOC's XML files or an
    # ImageSets/Main/train.txt, which need no train_images.
    train_json="",
    train_images="",
    test_json="",
    test_images="",
    val_fraction=0.0,  # of the training images, to test on where there is no test_json
    val_seed=0,
    crowds_as_objects=False,  # where a tool wrote "iscrowd": 1 for every mask
    vertical_flip=0.0,  # the chance of one in training; 0.5 where images have no up side
)

dataloader.train.dataset.names = L(register_split)(split="train", dataset="${dataset}")
dataloader.test.dataset.names = L(register_split)(split="test", dataset="${dataset}")


def _resize(*short_edges):
    return L(T.ResizeShortestEdge)(
        short_edge_length=list(short_edges), max_size=2 * max(short_edges), sample_style="choice"
    )


# A small dataset is soon known by heart: each image is seen at several sizes and in other light, and one time
# in four a part of it.
_any_size = _resize(208, 224, 240, 256, 272)
_part = [
    _resize(240, 288, 336),
    L(T.RandomCrop)(crop_type="absolute_range", crop_size=[160, 240]),
    _any_size,
]
dataloader.train.mapper.augmentations = [
    L(RandomChoice)(policies=[*3 * [[_any_size]], _part]),
    L(T.RandomFlip)(),
    L(T.RandomFlip)(prob="${dataset.vertical_flip}", horizontal=False, vertical=True),
    L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
]
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=240, max_size=320)]
dataloader.train.total_batch_size = 4
# Workers take the cores from a training that runs on them.
dataloader.train.num_workers = dataloader.test.num_workers = 4 if train.device == "cuda" else 0

model.decoder.bank = _bank
model.decoder.num_classes = L(num_classes)(dataset="${dataloader.train.dataset.names}")
model.queries.num_queries = 60

# In a run this short AdamW forgets nothing at the usual 1e-4.
optimizer.weight_decay = 0.15
optimizer.params.weight_decay_norm = 0.0
optimizer.params.overrides.bias = optimizer.params.overrides.shared_bias = dict(weight_decay=0.0)
optimizer.params.overrides.content.weight_decay = 0.0

train.max_iter = 3050
train.eval_period = train.max_iter // 10
train.output_dir = "./output/tiny_cpu"
