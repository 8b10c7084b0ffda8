"""What is wrong with a dataset in COCO format, and mending what can be.

`KINDS` lists every kind of problem with what becomes of it.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
from detectron2.structures import BoxMode

from lors.data.images import BadImage, check_size, read_image

__all__ = ["KINDS", "Problem", "check", "check_image", "check_records", "mends", "read_json", "summarise"]

logger = logging.getLogger(__name__)

ERROR, NOTED = "error", "noted"

# kind: what is done about it, what it is
KINDS = {
    "not_coco": (ERROR, "images or categories are missing, or they or annotations are no list"),
    "wrong_type": (ERROR, "a field is missing or its value is of another type than the format's"),
    "duplicate_image": (ERROR, "several images have this id"),
    "duplicate_category": (ERROR, "several categories have this id"),
    "unknown_category": (ERROR, "no category has the annotation's category_id"),
    "not_a_box": (ERROR, "bbox is not a list of four numbers"),
    "not_finite": (ERROR, "bbox has a NaN, an infinity or a number beyond a thousand million"),
    "negative_size": (ERROR, "the box's width or height is negative"),
    "looks_like_xyxy": (ERROR, "the boxes seem to be x0, y0, x1, y1; COCO's are x, y, width, height"),
    "missing_image": (ERROR, "there is no such image file"),
    "bad_image": (ERROR, "the image cannot be read; a mapper with on_bad_image=skip leaves it out"),
    "image_size": (ERROR, "the image has another size; a mapper with on_bad_image=skip leaves it out"),
    "unknown_image": ("dropped", "no image has the annotation's image_id"),
    "no_area": ("dropped", "the box's width or height is 0"),
    "outside": ("dropped", "the box is wholly outside its image"),
    "partly_outside": ("clipped", "the box reaches more than a pixel past its image"),
    "annotation_id": ("numbered anew", "the id is missing, taken, or not a whole number above 0"),
    "incomplete": ("filled in", "area (width x height) or iscrowd (0) is missing"),
    "segmentation": ("left out", "there is no polygon and no mask in it; the box stays"),
    "ignore": ("made a crowd", "the object is to be ignored"),
    "no_boxes": (NOTED, "an image without boxes: not trained on, evaluated"),
    "only_crowds": (NOTED, "an image whose boxes are all crowds: not trained on, evaluated"),
    "no_boxes_at_all": (NOTED, "there is nothing to train on and no AP"),
    "more_boxes_than_queries": (NOTED, "an image has boxes that no query can find"),
}

# Detectron2 takes boxes with a shorter side for empty.
SHORTEST = 1e-5
FARTHEST = 1e9
MOST = 2**53
# In pixels; coordinates are often rounded.
SLACK = 1
# Boxes are guessed to be xyxy where there are so many at least, this share of them reaches past the image as
# xywh, and this share fits as xyxy.
XYXY_BOXES, XYXY_PAST, XYXY_FIT = 10, 0.2, 0.95


class Problem(NamedTuple):
    """One thing that is wrong: its kind, a key of `KINDS`; where; and why."""

    kind: str
    id: str
    reason: str

    @property
    def fixed(self) -> bool:
        """Whether the dataset can be used all the same."""
        return KINDS[self.kind][0] != ERROR


def read_json(json_file: str) -> Any:
    """The content of a JSON file; raises ValueError where it is not one."""
    try:
        return json.loads(Path(json_file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{json_file} is not a JSON file: {error}") from error


def check(dataset: Any, num_queries: int | None = None) -> list[Problem]:
    """All problems of a dataset, the content of a COCO-format JSON file, but those of its image files.

    What can be mended is mended in `dataset`, as `KINDS` says.
    """
    return _Check(dataset, num_queries).problems


def summarise(problems: Iterable[Problem]) -> str:
    """How many problems there are of each kind, in one line."""
    counts = Counter(problem.kind for problem in problems)
    return ", ".join(f"{counts[kind]} {kind} ({KINDS[kind][0]})" for kind in KINDS if kind in counts)


def mends(problems: Iterable[Problem]) -> bool:
    """Whether `check` changed the dataset."""
    return any(KINDS[problem.kind][0] not in (ERROR, NOTED) for problem in problems)


def check_image(image: Any, image_root: str) -> Problem | None:
    """What is wrong with the file, which is read whole, of one entry of a dataset's images.

    What is wrong with the entry itself is for `check` to find.
    """
    if not (isinstance(image, dict) and isinstance(image.get("file_name"), str)):
        return None
    where, name = f"image {image.get('id')}", os.path.join(image_root, image["file_name"])
    if not os.path.exists(name):
        return Problem("missing_image", where, f"{name} does not exist")
    try:
        pixels = read_image(name)
    except BadImage as error:
        return Problem("bad_image", where, str(error))
    size = [image.get(key) for key in ("width", "height")]
    try:
        if all(map(_is_size, size)):
            check_size(name, pixels, *size)
    except BadImage as error:
        return Problem("image_size", where, str(error))
    return None


class _Check:
    """One pass over a dataset."""

    def __init__(self, dataset: Any, num_queries: int | None) -> None:
        self.problems: list[Problem] = []
        content = dataset if isinstance(dataset, dict) else {}
        images, categories, annotations = (
            self._list(content, key) for key in ("images", "categories", "annotations")
        )
        self.sizes = self._images(images)
        self.categories = self._categories(categories)
        self.boxes, self.crowds = Counter(), Counter()
        self.seen = self.past = self.fit = 0
        self.ids: set[int] = set()
        nameless: list[dict] = []

        kept = []
        for i, annotation in enumerate(annotations):
            if not isinstance(annotation, dict):
                self._add("wrong_type", f"annotations[{i}]", f"it is {_short(annotation)}, not an object")
                continue
            where, reason = self._annotation_id(annotation, i)
            if self._annotation(where, annotation):
                kept.append(annotation)
                if reason:
                    self._add("annotation_id", where, reason)
                    nameless.append(annotation)
        for number, annotation in enumerate(nameless, start=max(self.ids, default=0) + 1):
            annotation["id"] = number
        if content.get("annotations"):
            content["annotations"] = kept
        self._add_counts(num_queries)

    def _add(self, kind: str, where: str, reason: str) -> None:
        self.problems.append(Problem(kind, where, reason))

    def _list(self, content: dict, key: str) -> list:
        # A test set has no annotations.
        value = content.get(key, [])
        if not isinstance(value, list):
            self._add("not_coco", "file", f'its "{key}" is {_short(value)}, not a list')
            return []
        if not value and key != "annotations":
            self._add("not_coco", "file", f'it has no "{key}"')
        return value

    def _images(self, images: list) -> dict[Any, tuple[float, float] | None]:
        """Sizes by id; none where it is not known."""
        sizes: dict[Any, tuple[float, float] | None] = {}
        first: dict[Any, int] = {}
        for i, image in enumerate(images):
            known = self._id("images", image, i, _is_image_id, first)
            if known is None:
                continue
            where = f"image {known}"
            if type(known) is not type(next(iter(first))):
                self._add("wrong_type", where, "some ids are numbers, others are texts")
            name = image.get("file_name")
            if not (isinstance(name, str) and name):
                self._add("wrong_type", where, _wrong(image, "file_name", "a text"))
            for key in ("width", "height"):
                if not _is_size(image.get(key)):
                    self._add("wrong_type", where, _wrong(image, key, "a whole number above 0"))
            size = (image.get("width"), image.get("height"))
            sizes[known] = size if all(map(_is_size, size)) else None
        return sizes

    def _categories(self, categories: list) -> set[int] | None:
        """The ids; None where there are no categories to compare with."""
        first: dict[Any, int] = {}
        for i, category in enumerate(categories):
            known = self._id("categories", category, i, _is_whole, first)
            if known is not None and not isinstance(category.get("name"), str):
                self._add("wrong_type", f"category {known}", _wrong(category, "name", "a text"))
        return set(first) if categories else None

    def _id(self, key: str, entry: Any, i: int, is_id: Callable[[Any], bool], first: dict) -> Any:
        """An image's or category's id; None where it is none or taken."""
        where = f"{key}[{i}]"
        if not isinstance(entry, dict):
            self._add("wrong_type", where, f"it is {_short(entry)}, not an object")
            return None
        known = entry.get("id")
        if not is_id(known):
            self._add("wrong_type", where, _wrong(entry, "id", "a whole number"))
            return None
        if known in first:
            kind = "image" if key == "images" else "category"
            self._add(
                f"duplicate_{kind}", f"{kind} {known}", f"{key}[{first[known]}] and {where} both have it"
            )
            return None
        first[known] = i
        return known

    def _annotation_id(self, annotation: dict, i: int) -> tuple[str, str]:
        """Where it is, and what is wrong with its id, if anything is."""
        known = annotation.get("id")
        if not _is_whole(known):
            return f"annotations[{i}]", _wrong(annotation, "id", "a whole number above 0")
        # pycocotools takes a match with id 0 for no match.
        if known <= 0:
            return f"annotations[{i}]", f'"id" is {known}, not above 0'
        if known in self.ids:
            return f"annotations[{i}]", f"an annotation before it has id {known} too"
        self.ids.add(known)
        return f"annotation {known}", ""

    def _annotation(self, where: str, annotation: dict) -> bool:
        """Check and mend one annotation; whether it is kept."""
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not _is_image_id(image):
            self._add("wrong_type", where, _wrong(annotation, "image_id", "a whole number"))
        elif self.sizes and image not in self.sizes:
            self._add("unknown_image", where, f"no image has id {image}")
            return False
        if not _is_whole(category):
            self._add("wrong_type", where, _wrong(annotation, "category_id", "a whole number"))
        elif self.categories is not None and category not in self.categories:
            self._add("unknown_category", where, f"no category has id {category}")
        crowd = annotation.get("iscrowd")
        crowd = 0 if crowd is None else crowd
        if crowd not in (0, 1):
            self._add("wrong_type", where, _wrong(annotation, "iscrowd", "0 or 1"))
        ignored = annotation.get("ignore", 0)
        if ignored not in (0, 1):
            self._add("wrong_type", where, _wrong(annotation, "ignore", "0 or 1"))
        elif ignored:
            self._add("ignore", where, '"ignore" is 1')
            annotation["ignore"], annotation["iscrowd"], crowd = 0, 1, 1
        if annotation.get("segmentation") and not _is_segmentation(annotation["segmentation"]):
            self._add("segmentation", where, f'"segmentation" is {_short(annotation["segmentation"])}')
            del annotation["segmentation"]

        size = self.sizes.get(image) if _is_image_id(image) else None
        if not self._box(where, annotation, size, crowd):
            return False
        if _is_image_id(image):
            (self.crowds if crowd == 1 else self.boxes)[image] += 1
        return True

    def _box(self, where: str, annotation: dict, size: tuple[float, float] | None, crowd: Any) -> bool:
        """Check and mend bbox, area and iscrowd; whether the annotation is kept."""
        box = annotation.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)):
            self._add("not_a_box", where, _wrong(annotation, "bbox", "a list of four numbers"))
            return True
        if not all(-FARTHEST < v < FARTHEST for v in box):
            self._add("not_finite", where, f"bbox is {_short(box)}")
            return True
        x, y, w, h = box
        if w < 0 or h < 0:
            self._add("negative_size", where, f"bbox is {_short(box)}")
            return True
        if w <= SHORTEST or h <= SHORTEST:
            self._add("no_area", where, f"bbox is {_short(box)}")
            return False
        if size:
            width, height = size
            past = x < -SLACK or y < -SLACK or x + w > width + SLACK or y + h > height + SLACK
            if crowd != 1:
                self.seen += 1
                self.past += past
                self.fit += w > x and h > y and w <= width + SLACK and h <= height + SLACK
            x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            empty = x1 - x0 <= SHORTEST or y1 - y0 <= SHORTEST
            if empty or past:
                reason = f"bbox is {_short(box)}, the image {width} x {height}"
                self._add("outside" if empty else "partly_outside", where, reason)
            if empty:
                return False
            if past:
                w, h = x1 - x0, y1 - y0
                annotation["bbox"] = [x0, y0, w, h]
                if _is_area(annotation.get("area")):
                    annotation["area"] = min(annotation["area"], w * h)
        lacking = []
        if not _is_area(annotation.get("area")):
            lacking.append(_wrong(annotation, "area", "a number of pixels"))
            annotation["area"] = w * h
        if annotation.get("iscrowd") is None:
            lacking.append(_wrong(annotation, "iscrowd", "0 or 1"))
            annotation["iscrowd"] = 0
        if lacking:
            self._add("incomplete", where, ", ".join(lacking))
        return True

    def _add_counts(self, num_queries: int | None) -> None:
        """What only shows when all boxes have been seen."""
        if (
            self.seen >= XYXY_BOXES
            and self.past >= XYXY_PAST * self.seen
            and self.fit >= XYXY_FIT * self.seen
        ):
            reason = f"as x, y, width, height {self.past} of {self.seen} boxes reach past their image, "
            self._add("looks_like_xyxy", "file", reason + f"as x0, y0, x1, y1 {self.fit} fit")
        if self.sizes and not self.boxes and not self.crowds:
            self._add("no_boxes_at_all", "file", "no image has a box")
            return
        for image in self.sizes:
            number, crowds = self.boxes[image], self.crowds[image]
            if number == 0:
                kind, reason = ("only_crowds", f"{crowds} crowds") if crowds else ("no_boxes", "no boxes")
                self._add(kind, f"image {image}", reason)
            elif num_queries is not None and number > num_queries:
                reason = f"{number} boxes, {num_queries} queries"
                self._add("more_boxes_than_queries", f"image {image}", reason)


def _wrong(entry: dict, key: str, wanted: str) -> str:
    return f'"{key}" is {_short(entry[key])}, not {wanted}' if key in entry else f'"{key}" is missing'


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_whole(value: Any) -> bool:
    # pycocotools keeps ids in arrays.
    return type(value) is int and -MOST < value < MOST


def _is_image_id(value: Any) -> bool:
    return isinstance(value, str) or _is_whole(value)


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < FARTHEST and value == int(value)


def _is_area(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < FARTHEST**2


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, dict):
        return "size" in value and "counts" in value
    return (
        isinstance(value, list)
        and all(isinstance(polygon, list) for polygon in value)
        and any(len(polygon) % 2 == 0 and len(polygon) >= 6 for polygon in value)
    )


def check_records(
    records: Sequence[dict[str, Any]], name: str, *, num_queries: int, on_bad_image: str
) -> None:
    """A look of a second or so at dataset dicts that are about to be used; logs what can be worked with.

    Raises:
        ValueError: a box is not four finite numbers; an image file is missing and `on_bad_image` is "raise";
            or no image can be used at all.
    """
    empty = _count_empty(records, name)
    if empty:
        logger.warning("dataset %s: %d boxes without area are dropped", name, empty)
    numbers = [sum(not a.get("iscrowd", 0) for a in record.get("annotations", ())) for record in records]
    crowded = sum(number > num_queries for number in numbers)
    if crowded:
        text = "dataset %s: %d images have more boxes than the %d queries, up to %d; some are not learnt"
        logger.warning(text, name, crowded, num_queries, max(numbers))
    missing = _missing([record["file_name"] for record in records])
    if missing:
        text = f"dataset {name}: {len(missing)} of {len(records)} image files are missing: {missing[0]}"
        text += ", ..." if len(missing) > 1 else ""
        if on_bad_image == "raise":
            raise ValueError(text)
        logger.warning("%s", text)
    # With none to draw instead, a loader would look for one for ever.
    if on_bad_image == "skip" and not any(map(_is_usable, records)):
        raise ValueError(f"dataset {name}: none of its {len(records)} images can be used")


def _count_empty(records: Sequence[dict[str, Any]], name: str) -> int:
    annotations = [a for record in records for a in record.get("annotations", ())]
    try:
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    except ValueError as error:
        raise ValueError(f"dataset {name}: a bbox is not four numbers: {error}") from error
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        bad = annotations[int(finite.argmin())]["bbox"]
        raise ValueError(f"dataset {name}: {(~finite).sum()} boxes are not finite, the first is {bad}")
    corners = np.array([a["bbox_mode"] == BoxMode.XYXY_ABS for a in annotations], dtype=bool)
    boxes[corners, 2:] -= boxes[corners, :2]
    return int((boxes[:, 2:] <= SHORTEST).any(axis=1).sum())


def _is_usable(record: dict[str, Any]) -> bool:
    name = record["file_name"]
    try:
        check_size(name, read_image(name), record["width"], record["height"])
    except BadImage:
        return False
    return True


def _missing(paths: Sequence[str]) -> list[str]:
    """The local paths that do not exist, by listing each folder once."""
    folders: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in folders[folder] and "://" not in path and not os.path.isfile(path):
            missing.append(path)
    return missing
