"""Data that Detectron2 lacks: any COCO-format dataset by its paths, checked; the digits; a careful mapper."""

from lors.data.augmentation import RandomChoice
from lors.data.check import check_records
from lors.data.coco import num_classes, register_coco
from lors.data.digits import register_digits
from lors.data.loader import TrainLoader
from lors.data.mapper import Mapper, Readable

__all__ = [
    "Mapper",
    "RandomChoice",
    "Readable",
    "TrainLoader",
    "check_records",
    "num_classes",
    "register_coco",
    "register_digits",
]
