"""Random changes to images, (H, W, C) uint8, and their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image


class AugInput:
    """An image that augmentations change."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image


class Augmentation:
    """Chooses a transform for an image, with numpy's global random numbers."""

    def get_transform(self, image: np.ndarray) -> Transform:
        raise NotImplementedError

    def __call__(self, aug_input: AugInput) -> Transform:
        transform = self.get_transform(aug_input.image)
        aug_input.image = transform.apply_image(aug_input.image)
        return transform


class AugmentationList(Augmentation):
    """Augmentations one after the other."""

    def __init__(self, augs: Sequence[Augmentation]) -> None:
        self.augs = augs

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])


class ResizeTransform(Transform):
    """Resize from (h, w) to (new_h, new_w) pixels, bilinearly."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int) -> None:
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(img).resize((self.new_w, self.new_h), Image.BILINEAR))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * [self.new_w / self.w, self.new_h / self.h]


class ResizeShortestEdge(Augmentation):
    """Bring the shorter side to one of the lengths, or between two; the longer has at most `max_size`."""

    def __init__(
        self, short_edge_length: int | Sequence[int], max_size: float, sample_style: str = "range"
    ) -> None:
        assert sample_style in ("range", "choice"), sample_style
        self.short_edge_length = (
            2 * (short_edge_length,) if isinstance(short_edge_length, int) else short_edge_length
        )
        self.max_size, self.sample_style = max_size, sample_style

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        lengths = self.short_edge_length
        if self.sample_style == "range":
            size = np.random.randint(lengths[0], lengths[1] + 1)
        else:
            size = np.random.choice(lengths)
        scale = size / min(h, w)
        new_h, new_w = scale * h, scale * w
        scale = min(1.0, self.max_size / max(new_h, new_w))
        return ResizeTransform(h, w, int(new_h * scale + 0.5), int(new_w * scale + 0.5))


class RandomFlip(Augmentation):
    """Mirror left to right, or upside down, with probability `prob`."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        assert horizontal != vertical, "exactly one of horizontal and vertical"
        self.prob, self.vertical = prob, vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        return VFlipTransform(height) if self.vertical else HFlipTransform(width)


class RandomCrop(Augmentation):
    """Cut out a part at a random place, of `crop_size` (min, max) pixels a side: "absolute_range"."""

    def __init__(self, crop_type: str, crop_size: tuple[int, int]) -> None:
        assert crop_type == "absolute_range", crop_type
        self.crop_size = crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        low, high = self.crop_size
        crop_h = np.random.randint(min(h, low), min(h, high) + 1)
        crop_w = np.random.randint(min(w, low), min(w, high) + 1)
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)


class RandomBrightness(Augmentation):
    """Mix the image with black by a weight between the two bounds; 1 leaves it as it is."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        self.intensity_min, self.intensity_max = intensity_min, intensity_max

    def get_transform(self, image: np.ndarray) -> Transform:
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(np.zeros(1), src_weight=1 - weight, dst_weight=weight)
