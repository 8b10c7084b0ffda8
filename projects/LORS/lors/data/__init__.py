"""Data that Detectron2 lacks: any dataset by its paths, checked; the digits; a careful mapper."""

from lors.data.augmentation import RandomChoice
from lors.data.classes import num_classes
from lors.data.coco import check_records, register_coco, register_split
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
    "register_split",
]
