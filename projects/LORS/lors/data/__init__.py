"""Datasets: any COCO-format JSON, and the handwritten digits of the quick start."""

from lors.data.coco import num_classes, register_coco
from lors.data.digits import register_digits

__all__ = ["num_classes", "register_coco", "register_digits"]
