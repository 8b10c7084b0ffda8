"""Boxes, per-image annotations and batches of images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch.nn import functional as F


class BoxMode(IntEnum):
    """How four numbers, in pixels, make a box: two corners, or a corner, width and height."""

    XYXY_ABS = 0
    XYWH_ABS = 1

    @staticmethod
    def convert(box: Any, from_mode: BoxMode, to_mode: BoxMode) -> Any:
        """Convert a list of four numbers or a tensor (..., 4)."""
        if from_mode == to_mode:
            return box
        rows = torch.tensor(box) if isinstance(box, list) else box.clone()
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        rows[..., 2:] += sign * rows[..., :2]
        return rows.tolist() if isinstance(box, list) else rows


class Boxes:
    """N boxes as a float32 tensor (N, 4) of x0, y0, x1, y1 in pixels."""

    def __init__(self, tensor: torch.Tensor) -> None:
        assert tensor.dim() == 2 and tensor.size(-1) == 4, tensor.size()
        self.tensor = tensor.float()

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip to an image of (height, width), in place."""
        height, width = box_size
        limits = self.tensor.new_tensor([width, height, width, height])
        self.tensor = self.tensor.clamp(min=0).minimum(limits)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """(N,) bool: both sides longer than threshold."""
        return ((self.tensor[:, 2:] - self.tensor[:, :2]) > threshold).all(dim=1)

    def to(self, device: str | torch.device) -> Boxes:
        return Boxes(self.tensor.to(device))

    def __getitem__(self, item: slice | torch.Tensor) -> Boxes:
        return Boxes(self.tensor[item])

    def __len__(self) -> int:
        return len(self.tensor)


class Instances:
    """The objects in an image of (height, width) pixels: fields of one length, read and set as attributes."""

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            setattr(self, name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            return super().__setattr__(name, value)
        same = not self._fields or len(self) == len(value)
        assert same, f"{name} has {len(value)} entries, the other fields have {len(self)}"
        self._fields[name] = value

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"there is no field {name!r}")
        return self._fields[name]

    def to(self, device: str | torch.device) -> Instances:
        return Instances(self._image_size, **{k: v.to(device) for k, v in self._fields.items()})

    def __getitem__(self, item: slice | torch.Tensor) -> Instances:
        return Instances(self._image_size, **{k: v[item] for k, v in self._fields.items()})

    def __len__(self) -> int:
        return len(next(iter(self._fields.values())))


@dataclass
class ImageList:
    """Images padded to one size: `tensor` (N, C, H, W), `image_sizes` the N sizes before that."""

    tensor: torch.Tensor
    image_sizes: list[tuple[int, int]]

    @staticmethod
    def from_tensors(tensors: list[torch.Tensor], size_divisibility: int = 1) -> ImageList:
        """Batch (C, H, W) images, padded right and below to a multiple of `size_divisibility`."""
        sizes = [tuple(image.shape[-2:]) for image in tensors]
        height, width = (-(-max(sides) // size_divisibility) * size_divisibility for sides in zip(*sizes))
        padded = [F.pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(tensors, sizes)]
        return ImageList(torch.stack(padded), sizes)
