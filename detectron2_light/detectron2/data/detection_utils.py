"""Steps from a dataset dict to a model's input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fvcore.transforms.transform import Transform
from PIL import Image, ImageOps

from ..structures import Boxes, BoxMode, Instances


def read_image(file_name: str, format: str) -> np.ndarray:
    """Read an image in a format such as "RGB", upright as its EXIF orientation tells: uint8 (H, W, C)."""
    with Image.open(file_name) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert(format))


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare width and height in the dict with the image's."""
    size = (image.shape[1], image.shape[0])
    expected = (dataset_dict["width"], dataset_dict["height"])
    if expected != size:
        name = dataset_dict["file_name"]
        raise ValueError(f"{name}: (width, height) is {size}, the dataset says {expected}")


def make_instances(
    annotations: list[dict[str, Any]], transforms: Transform, image_size: tuple[int, int]
) -> Instances:
    """gt_boxes, moved along with their image to its new (height, width), and gt_classes; no empty boxes."""
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    moved = [transforms.apply_box(np.array([box]))[0].clip(min=0) for box in boxes]
    limits = [*image_size[::-1], *image_size[::-1]]
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(np.stack([np.minimum(box, limits) for box in moved]) if moved else [])
    instances.gt_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    return instances[instances.gt_boxes.nonempty(threshold=1e-5)]
