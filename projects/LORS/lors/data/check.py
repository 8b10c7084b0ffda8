"""What is wrong with a dataset in COCO format, and mending what can be.

`KINDS` lists every kind of problem with what becomes of it.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode

from lors.data.images import BadImage, check_size, read_image

__all__ = ["KINDS", "Problem", "check", "check_image", "check_records", "mends", "read_json", "summarise"]

# What is wrong with one thing: the reasons for each kind of problem
Reasons = dict[str, list[str]]

logger = logging.getLogger(__name__)

ERROR, DROPPED, NOTED = "error", "dropped", "noted"

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
    "unknown_image": (DROPPED, "no image has the annotation's image_id"),
    "no_area": (DROPPED, "the box's width or height is 0"),
    "outside": (DROPPED, "the box is wholly outside its image"),
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


def _is_whole(value: Any) -> bool:
    # pycocotools keeps ids in arrays.
    return type(value) is int and -MOST < value < MOST


def _is_image_id(value: Any) -> bool:
    return isinstance(value, str) or _is_whole(value)


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < FARTHEST and value == int(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(type(v) in (int, float) for v in value)


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, list) and all(isinstance(polygon, list) for polygon in value):
        return not value or any(len(polygon) % 2 == 0 and len(polygon) >= 6 for polygon in value)
    return not value or (isinstance(value, dict) and "size" in value and "counts" in value)


# list: field: the kind of problem where it is wrong, what is right, and that in words
FIELDS = {
    "images": {
        "id": ("wrong_type", _is_image_id, "a whole number"),
        "file_name": ("wrong_type", lambda value: isinstance(value, str) and value != "", "a text"),
        "width": ("wrong_type", _is_size, "a whole number above 0"),
        "height": ("wrong_type", _is_size, "a whole number above 0"),
    },
    "categories": {
        "id": ("wrong_type", _is_whole, "a whole number"),
        "name": ("wrong_type", lambda value: isinstance(value, str), "a text"),
    },
    "annotations": {
        # pycocotools takes a match with id 0 for no match.
        "id": ("annotation_id", lambda value: _is_whole(value) and value > 0, "a whole number above 0"),
        "image_id": ("wrong_type", _is_image_id, "a whole number"),
        "category_id": ("wrong_type", _is_whole, "a whole number"),
        "bbox": ("not_a_box", _is_box, "a list of four numbers"),
        "iscrowd": ("wrong_type", lambda value: value in (None, 0, 1), "0 or 1"),
        "ignore": ("wrong_type", lambda value: value in (0, 1), "0 or 1"),
        "segmentation": ("segmentation", _is_segmentation, "polygons or a mask"),
    },
}
OPTIONAL = ("iscrowd", "ignore", "segmentation")


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


def summarise(problems: Iterable[Problem]) -> str:
    """How many problems there are of each kind, in one line."""
    counts = Counter(problem.kind for problem in problems)
    return ", ".join(f"{counts[kind]} {kind} ({KINDS[kind][0]})" for kind in KINDS if kind in counts)


def mends(problems: Iterable[Problem]) -> bool:
    """Whether `check` changed the dataset."""
    return any(KINDS[problem.kind][0] not in (ERROR, NOTED) for problem in problems)


def check(dataset: Any, num_queries: int | None = None) -> list[Problem]:
    """All problems of a dataset, the content of a COCO-format JSON file, but those of its image files.

    What can be mended is mended in `dataset`, as `KINDS` says.

    Args:
        num_queries: of the detector; images with more boxes are noted.
    """
    content = dataset if isinstance(dataset, dict) else {}
    findings: list[tuple[str, Reasons]] = []
    images, categories, annotations = (list(_entries(content, key, findings)) for key in FIELDS)
    # A size that is not known bounds nothing.
    sizes = {i["id"]: (inf, inf) if found else (i["width"], i["height"]) for i, found in images}
    category_ids = {category["id"] for category, _ in categories}
    number = max((a["id"] for a, found in annotations if "annotation_id" not in found), default=0)
    kept, counts, seen = [], Counter(), Counter()
    for annotation, found in annotations:
        image, category = annotation.get("image_id"), annotation.get("category_id")
        image = image if _is_image_id(image) else None
        if sizes and image is not None and image not in sizes:
            found.clear()
            found["unknown_image"].append(f"no image has id {image}")
            continue
        if content.get("categories") and _is_whole(category) and category not in category_ids:
            found["unknown_category"].append(f"no category has id {category}")
        _check_annotation(annotation, found, sizes.get(image, (inf, inf)), seen)
        if any(KINDS[kind][0] == DROPPED for kind in found):
            found.pop("annotation_id", None)
            continue
        if "annotation_id" in found:
            annotation["id"] = number = number + 1
        kept.append(annotation)
        counts[image, annotation.get("iscrowd") == 1] += 1
    if "annotations" in content:
        content["annotations"] = kept

    boxes, past, fit = seen["boxes"], seen["past"], seen["fit"]
    if boxes >= XYXY_BOXES and past >= XYXY_PAST * boxes and fit >= XYXY_FIT * boxes:
        reason = f"as x, y, width, height {past} of {boxes} boxes reach past their image, "
        findings.append(("file", {"looks_like_xyxy": [reason + f"as x0, y0, x1, y1 {fit} fit"]}))
    if sizes and not kept:
        findings.append(("file", {"no_boxes_at_all": ["no image has a box"]}))
    for image, found in images if kept else ():
        boxes, crowds = counts[image["id"], False], counts[image["id"], True]
        if boxes == 0:
            found["only_crowds" if crowds else "no_boxes"].append(f"{boxes} boxes, {crowds} crowds")
        elif num_queries is not None and boxes > num_queries:
            found["more_boxes_than_queries"].append(f"{boxes} boxes, {num_queries} queries")
    return [Problem(kind, where, ", ".join(why)) for where, found in findings for kind, why in found.items()]


def _entries(content: dict, key: str, findings: list[tuple[str, Reasons]]) -> Iterator[tuple[dict, Reasons]]:
    """The objects in one of the dataset's lists, but images and categories that have no id.

    With each comes what is wrong with it; `findings` gets that of all.
    """
    entries = content.get(key, [])
    if not isinstance(entries, list):
        findings.append(("file", {"not_coco": [f'its "{key}" is {short(entries)}, not a list']}))
        return
    # A test set has no annotations.
    if not entries and key != "annotations":
        findings.append(("file", {"not_coco": [f'it has no "{key}"']}))
    name = {"images": "image", "categories": "category", "annotations": "annotation"}[key]
    _, is_id, _ = FIELDS[key]["id"]
    places: dict[int | str, str] = {}
    for i, entry in enumerate(entries):
        place = f"{key}[{i}]"
        if not isinstance(entry, dict):
            findings.append((place, {"wrong_type": [f"it is {short(entry)}, not an object"]}))
            continue
        found: Reasons = defaultdict(list)
        for field, (kind, is_right, wanted) in FIELDS[key].items():
            if not is_right(entry.get(field)) and (field in entry or field not in OPTIONAL):
                found[kind].append(_wrong(entry, field, wanted))
        known = entry.get("id")
        has_id = is_id(known)
        if has_id and places.setdefault(known, place) != place:
            kind = "annotation_id" if name == "annotation" else f"duplicate_{name}"
            found[kind].append(f"{places[known]} and {place} both have id {known}")
        elif has_id and type(known) is not type(next(iter(places))):
            found["wrong_type"].append("some ids are numbers, others are texts")
        # An annotation whose id is another's too is found by its place only.
        is_named = has_id and "annotation_id" not in found
        findings.append((f"{name} {known}" if is_named else place, found))
        if has_id or key == "annotations":
            yield entry, found


def _check_annotation(
    annotation: dict, found: Reasons, size: tuple[float, float], seen: Counter[str]
) -> None:
    """Check an annotation's box and mend what can be mended, adding to `found`.

    Args:
        size: (width, height) of the image.
        seen: counts the "boxes", those that reach "past" their images and those that would "fit" if their
            numbers were corners.
    """
    if annotation.get("ignore") == 1:
        found["ignore"].append('"ignore" is 1')
        annotation.update(ignore=0, iscrowd=1)
    if "segmentation" in found:
        del annotation["segmentation"]
    if "not_a_box" in found:
        return
    x, y, w, h = box = annotation["bbox"]
    kind = None
    if not all(-FARTHEST < value < FARTHEST for value in box):
        kind = "not_finite"
    elif w <= SHORTEST or h <= SHORTEST:
        kind = "negative_size" if w < 0 or h < 0 else "no_area"
    if kind:
        found[kind].append(f"bbox is {short(box)}")
        return
    width, height = size
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    is_past = x < -SLACK or y < -SLACK or x + w > width + SLACK or y + h > height + SLACK
    if annotation.get("iscrowd") != 1:
        seen["boxes"] += 1
        seen["past"] += is_past
        seen["fit"] += w > x and h > y and w <= width + SLACK and h <= height + SLACK
    is_empty = x1 - x0 <= SHORTEST or y1 - y0 <= SHORTEST
    if is_empty or is_past:
        kind = "outside" if is_empty else "partly_outside"
        found[kind].append(f"bbox is {short(box)}, the image {width} x {height}")
    if is_empty:
        return
    area = annotation.get("area")
    has_area = type(area) in (int, float) and 0 <= area < FARTHEST**2
    if is_past:
        w, h = x1 - x0, y1 - y0
        annotation["bbox"] = [x0, y0, w, h]
        if has_area:
            annotation["area"] = min(area, w * h)
    if not has_area:
        found["incomplete"].append(_wrong(annotation, "area", "a number of pixels"))
        annotation["area"] = w * h
    if annotation.get("iscrowd") is None:
        found["incomplete"].append(_wrong(annotation, "iscrowd", "0 or 1"))
        annotation["iscrowd"] = 0


def _wrong(entry: dict, field: str, wanted: str) -> str:
    return f'"{field}" is {short(entry[field])}, not {wanted}' if field in entry else f'"{field}" is missing'


def check_image(image: Any, image_root: str) -> Problem | None:
    """What is wrong with the file, which is read whole, of one entry of a dataset's images.

    What is wrong with the entry itself is for `check` to find.
    """
    if not (isinstance(image, dict) and isinstance(image.get("file_name"), str)):
        return None
    name, kind = os.path.join(image_root, image["file_name"]), "bad_image"
    try:
        pixels = read_image(name)
        kind, size = "image_size", (image.get("width"), image.get("height"))
        if all(map(_is_size, size)):
            check_size(name, pixels, *size)
    except BadImage as error:
        kind = "missing_image" if isinstance(error.__cause__, FileNotFoundError) else kind
        return Problem(kind, f"image {image.get('id')}", str(error))
    return None


def check_records(
    records: Sequence[dict[str, Any]], name: str, *, num_queries: int, on_bad_image: str
) -> None:
    """A look of a second or so at dataset dicts that are about to be used; logs what can be worked with.

    Raises:
        ValueError: a box is not four finite numbers; an image file is missing and `on_bad_image` is "raise";
            or no image can be used at all.
    """
    annotations = [a for record in records for a in record.get("annotations", ())]
    try:
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(len(annotations), 4)
    except ValueError as error:
        raise ValueError(f"dataset {name}: a bbox is not four numbers: {error}") from error
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        bad = annotations[int(finite.argmin())]["bbox"]
        raise ValueError(f"dataset {name}: {(~finite).sum()} boxes are not finite, the first is {bad}")
    corners = np.array([a["bbox_mode"] == BoxMode.XYXY_ABS for a in annotations], dtype=bool)
    boxes[corners, 2:] -= boxes[corners, :2]
    empty = (boxes[:, 2:] <= SHORTEST).any(axis=1).sum()
    if empty:
        logger.warning("dataset %s: %d boxes without area are dropped", name, empty)
    numbers = [sum(not a.get("iscrowd", 0) for a in record.get("annotations", ())) for record in records]
    crowded = sum(number > num_queries for number in numbers)
    if crowded:
        text = "dataset %s: %d images have more boxes than the %d queries, up to %d; some are not learnt"
        logger.warning(text, name, crowded, num_queries, max(numbers))

    paths = [record["file_name"] for record in records if "://" not in record["file_name"]]
    # Listing each folder once takes less time than asking for each file.
    folders = {folder for folder in map(os.path.dirname, paths) if os.path.isdir(folder)}
    there = {os.path.join(folder, file) for folder in folders for file in os.listdir(folder)}
    missing = [path for path in paths if path not in there and not os.path.isfile(path)]
    if missing:
        text = f"dataset {name}: {len(missing)} of {len(records)} image files are missing: {missing[0]}"
        text += ", ..." if len(missing) > 1 else ""
        if on_bad_image == "raise":
            raise ValueError(text)
        logger.warning("%s", text)
    # With none to draw instead, a loader would look for one for ever.
    if on_bad_image == "skip" and all(check_image(record, "") for record in records):
        raise ValueError(f"dataset {name}: none of its {len(records)} images can be used")
