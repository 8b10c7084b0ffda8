"""Data that Detectron2 lacks: any COCO-format dataset by its paths, the digits, an augmentation."""

from lors.data.augmentation import RandomChoice
from lors.data.coco import num_classes, register_coco
from lors.data.digits import make_digits, register_digits

__all__ = ["RandomChoice", "make_digits", "num_classes", "register_coco", "register_digits"]
