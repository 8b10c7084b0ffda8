"""From a dataset dict to a model's input, and what becomes of images that cannot be read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm

from lors.data.images import MAX_PIXELS, BadImage, check_size, read_image
from lors.errors import UserError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


class Mapper:
    """Reads a dataset dict's image, augments it and makes tensors, as Detectron2's DatasetMapper.

    Args:
        is_train: whether annotations become `instances`; else they are left out.
        augmentations: Detectron2's augmentations, one after the other.
        image_format: order of the channels, "RGB" or "BGR".
        on_bad_image: "raise" a BadImage that names the file, or "skip" the image: the loader then draws
            another one in training, and `Readable` logs and counts what was skipped.
        max_pixels: the largest image that is decoded.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str = "RGB",
        on_bad_image: str = "raise",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        for name, value, allowed in (
            ("image_format", image_format, ("RGB", "BGR")),
            ("on_bad_image", on_bad_image, ("raise", "skip")),
        ):
            if value not in allowed:
                raise UserError(f"mapper.{name}={value!r}: must be one of {', '.join(allowed)}")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.on_bad_image = on_bad_image
        self.max_pixels = max_pixels
        self._skipped: list[tuple[str, str]] = []

    def __call__(self, dataset_dict: Record) -> Record | None:
        """The dict with `image`, uint8 (3, H, W), and in training `instances` with gt_boxes and gt_classes.

        A skipped image gives None in training, else the dict without `image`; the next dict that leaves this
        mapper, or that one, has it in `skipped`: [(file, reason)].
        """
        record = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        try:
            image, transforms = self._read(record)
        except BadImage as error:
            if self.on_bad_image == "raise":
                raise
            self._skipped.append((record["file_name"], str(error)))
            return None if self.is_train else self._report(record)
        if self.image_format == "BGR":
            image = image[:, :, ::-1]
        record["image"] = torch.from_numpy(image.transpose(2, 0, 1).copy())
        if self.is_train:
            record["instances"] = _make_instances(
                dataset_dict.get("annotations", ()), transforms, image.shape[:2]
            )
        return self._report(record)

    def _read(self, record: Record) -> tuple[np.ndarray, T.TransformList]:
        name = record["file_name"]
        image = read_image(name, self.max_pixels)
        height, width = image.shape[:2]
        check_size(name, image, record.setdefault("width", width), record.setdefault("height", height))
        seen = T.AugInput(image)
        try:
            transforms = self.augmentations(seen)
        # The shorter side of a very long image is resized to nothing.
        except ValueError as error:
            if "must be > 0" not in str(error):  # Pillow's words; anything else is not the image's fault
                raise
            raise BadImage(f"{name}: {width} x {height} pixels, augmentation failed: {error}") from error
        return seen.image, transforms

    def _report(self, record: Record) -> Record:
        if self._skipped:
            record["skipped"], self._skipped = self._skipped, []
        return record


def _make_instances(
    annotations: Sequence[Record], transforms: T.TransformList, image_size: tuple[int, int]
) -> Instances:
    """All boxes but crowds, moved along with their image, clipped to its (height, width) and not empty."""
    annotations = [a for a in annotations if a.get("iscrowd", 0) == 0]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    height, width = image_size
    moved = transforms.apply_box(np.array(boxes, dtype=np.float64).reshape(-1, 4)).clip(min=0)
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.from_numpy(np.minimum(moved, [width, height, width, height])).float())
    instances.gt_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    return instances[instances.gt_boxes.nonempty(threshold=1e-5)]


class Readable:
    """The batches of a loader of `Mapper`'s dicts, without the images that could not be read.

    Each of those is logged once, here in the main process, whatever the number of workers.
    """

    def __init__(self, loader: Iterable[list[Record]]) -> None:
        self._loader = loader
        self._skipped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Record]]:
        for batch in self._loader:
            for name, reason in (skip for record in batch for skip in record.pop("skipped", ())):
                if name not in self._skipped:
                    logger.warning("Skipped %s", reason)
                self._skipped[name] += 1
            batch = [record for record in batch if "image" in record]
            if batch:
                yield batch

    def log_count(self, meaning: str) -> None:
        """Log how many images all processes skipped, if any, and what that means."""
        total = sum(comm.gather(self._skipped), Counter())
        if total:
            names = ", ".join(sorted(total)[:5]) + (", ..." if len(total) > 5 else "")
            count = f"{len(total)}, {sum(total.values())} times in all"
            logger.warning("Skipped images: %s (%s): %s", count, meaning, names)
