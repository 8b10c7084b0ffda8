import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator

from lors.data import Mapper, RandomChoice, TrainLoader

_short_edges = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]


def _resize(short_edges, max_size=1333):
    return L(T.ResizeShortestEdge)(short_edge_length=short_edges, max_size=max_size, sample_style="choice")


multi_scale = [L(T.RandomFlip)(), _resize(_short_edges)]

# As DETR: half the images are cut down to a part of them first.
crop_or_resize = [
    L(T.RandomFlip)(),
    L(RandomChoice)(
        policies=[
            [_resize(_short_edges)],
            [
                _resize([400, 500, 600]),
                L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600]),
                _resize(_short_edges),
            ],
        ]
    ),
]

dataloader = dict(
    train=L(TrainLoader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(Mapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(),
                _resize([800]),
            ],
            image_format="RGB",
            on_bad_image="raise",  # or "skip"; both name the file
            max_pixels=80_000_000,
        ),
        total_batch_size=16,
        num_workers=4,
        pin_memory=torch.cuda.is_available(),
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(Mapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="${...train.mapper.image_format}",
            on_bad_image="${...train.mapper.on_bad_image}",
            max_pixels="${...train.mapper.max_pixels}",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        output_dir="${train.output_dir}",
        max_dets_per_image=100,  # COCO's; where an image has more objects, no AP can be whole
    ),
)
