"""What is wrong with a dataset in COCO format, and mending what can be.

`KINDS` lists every kind of problem with what becomes of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from math import inf
from reprlib import repr as short
from typing import Any, NamedTuple

from lors.data.images import find_files

ERROR, DROPPED, NOTED = "error", "dropped", "noted"

# kind: what is done about it, what it is
KINDS = {
    "not_coco": (ERROR, "images or categories are missing, or they or annotations are no list"),
    "wrong_type": (ERROR, "a field is missing or its value is of another type than the format's"),
    "duplicate_id": (ERROR, "several images or several categories have this id"),
    "unknown_category": (ERROR, "no category has the annotation's category_id"),
    "unknown_class": (ERROR, "there are objects of classes that the model was not trained on"),
    "not_a_box": (ERROR, "bbox is not a list of four finite numbers below a thousand million"),
    "negative_size": (ERROR, "the box's width or height is negative"),
    "looks_like_xyxy": (ERROR, "the boxes seem to be x0, y0, x1, y1; COCO's are x, y, width, height"),
    "looks_like_shares": (ERROR, "the boxes seem to be shares of the image; COCO's are pixels"),
    "nothing_left": (ERROR, "every annotation would be dropped"),
    "missing_image": (ERROR, "there is no such image file"),
    "bad_image": (ERROR, "the image cannot be read; a mapper with on_bad_image=skip leaves it out"),
    "image_size": (ERROR, "the image has another size; a mapper with on_bad_image=skip leaves it out"),
    "unknown_image": (DROPPED, "no image has the annotation's image_id"),
    "no_area": (DROPPED, "the box's width or height is 0"),
    "outside": (DROPPED, "the box is wholly outside its image"),
    "unused_class": (DROPPED, "the model was not trained on these classes, and there are no objects of them"),
    "partly_outside": ("clipped", "the box reaches more than a pixel past its image"),
    "encoding": ("decoded", "the file is Unicode of another kind than plain UTF-8"),
    "file_name": ("found", "the file's name differs by \\, %20, case or the folders before it"),
    "id_type": ("matched", "an id is the right number as a text or with a decimal point"),
    "annotation_id": ("numbered anew", "the id is missing, taken, or not a whole number above 0"),
    "same_name": ("renamed", "a category before it has this name"),
    "other_ids": ("matched by name", "the classes have other ids or another order than in training"),
    "incomplete": ("filled in", "area (width x height) or iscrowd (0) is missing"),
    "segmentation": ("left out", "there is no polygon and no mask in it; the box stays"),
    "ignore": ("made a crowd", "the object is to be ignored"),
    "crowd": ("made an object", "the annotation is a crowd, and crowds are to be objects"),
    "no_boxes": (NOTED, "an image without boxes, but perhaps crowds: not trained on, evaluated"),
    "class_without_boxes": (NOTED, "these classes are not learnt and have no AP; crowds do not count"),
    "no_boxes_at_all": (NOTED, "there is no AP, and as a training set it is an error"),
    "more_boxes_than_queries": (NOTED, "an image has boxes that no query can find"),
    "more_boxes_than_counted": (NOTED, "an image has more boxes than detections count: AP is too low"),
}

# Detectron2 takes boxes with a shorter side for empty.
SHORTEST = 1e-5
FARTHEST = 1e9
# In pixels; coordinates are often rounded.
SLACK = 1
# Boxes are guessed to be xyxy where there are so many at least, this share of them reaches past the image as
# xywh, and most fit as xyxy. They are guessed to be shares where most lie within the first pixel.
XYXY_BOXES, XYXY_PAST, MOST = 10, 0.2, 0.95


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -FARTHEST < value < FARTHEST


def _is_id(value: Any) -> bool:
    return type(value) is int and -(2**63) < value < 2**63  # NumPy keeps them in 64 bits


def _is_image_id(value: Any) -> bool:
    return isinstance(value, str) or _is_id(value)


def _is_annotation_id(value: Any) -> bool:
    # pycocotools takes a match with id 0 for no match, and keeps ids as floats.
    return type(value) is int and 0 < value < 2**53


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def is_size(value: Any) -> bool:
    return _is_number(value) and value > 0 and value == int(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, list) and all(isinstance(polygon, list) for polygon in value):
        return not value or any(len(polygon) % 2 == 0 and len(polygon) >= 6 for polygon in value)
    return not value or (isinstance(value, dict) and "size" in value and "counts" in value)


# list: field: the kind of problem where it is wrong, what is right, and that in words
FIELDS = {
    "images": {
        "id": ("wrong_type", _is_image_id, "a whole number below 2^63 or a text"),
        "file_name": ("wrong_type", is_text, "a text"),
        "width": ("wrong_type", is_size, "a whole number above 0"),
        "height": ("wrong_type", is_size, "a whole number above 0"),
    },
    "categories": {
        "id": ("wrong_type", _is_id, "a whole number below 2^63"),
        "name": ("wrong_type", is_text, "a text"),
    },
    "annotations": {
        "id": ("annotation_id", _is_annotation_id, "a whole number above 0"),
        "image_id": ("wrong_type", _is_image_id, "a whole number"),
        "category_id": ("wrong_type", _is_id, "a whole number"),
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
    def done(self) -> str:
        return KINDS[self.kind][0]


Add = Callable[[str, str, str], None]


def summarise(problems: Iterable[Problem]) -> str:
    """In one line how many problems there are of each kind, what is done about it, and the first."""
    problems = sorted(problems, key=lambda problem: list(KINDS).index(problem.kind))
    counts = Counter(problem.kind for problem in problems)
    first = {problem.kind: problem for problem in reversed(problems)}
    said = [(first[kind], number) for kind, number in counts.items()]
    return "; ".join(f"{number} {p.kind} ({p.done}; {p.id}: {p.reason})" for p, number in said)


def check(
    dataset: Any,
    image_root: str | None = None,
    *,
    crowds_as_objects: bool = False,
    num_queries: float = inf,
    max_detections: float = inf,
) -> list[Problem]:
    """All problems of a dataset, the content of a COCO-format JSON file, but those inside its image files.

    What can be mended is mended in `dataset`, as `KINDS` says.

    Args:
        image_root: the folder of the images, to look whether they are there.
        crowds_as_objects: annotations with "iscrowd" 1 are objects, as some tools write masks.
        num_queries, max_detections: in an image; where there are more boxes is noted.
    """
    content, problems = dataset if isinstance(dataset, dict) else {}, []

    def add(kind: str, where: str, reason: str) -> None:
        problems.append(Problem(kind, where, reason))

    images, categories = (_by_id(content, key, add) for key in ("images", "categories"))
    if image_root is not None:
        named = {i: image["file_name"] for i, image in images.items() if is_text(image.get("file_name"))}
        for i, name in find_files(named, image_root).items():
            images[i]["file_name"] = name or named[i]
            path = os.path.join(image_root, named[i])
            add("file_name" if name else "missing_image", f"image {i}", f"{path} is {name or 'not there'}")
    for i, category in categories.items():
        name, others = category.get("name"), [c.get("name") for c in categories.values() if c is not category]
        if is_text(name) and name in others[: [*categories].index(i)]:
            category["name"] = next(n for k in count(2) if (n := f"{name} ({k})") not in others)
            add("same_name", f"category {i}", f"{name!r} becomes {category['name']!r}")
    in_image, in_class = _annotations(content, images, categories, crowds_as_objects, add)
    if without := [i for i in categories if in_class and not in_class[i, False]]:
        reason = ", ".join(short(categories[i].get("name")) for i in without)
        if crowds := sum(in_class[i, True] for i in without):
            reason += f"; crowds_as_objects=true would take {crowds} crowds of theirs for objects"
        add("class_without_boxes", "file", reason)
    has_boxes = any(not is_crowd for _, is_crowd in in_image)
    if images and not has_boxes:
        add("no_boxes_at_all", "file", f"no image has a box, {sum(in_image.values())} crowds")
    for i in images if has_boxes else ():
        boxes, where = in_image[i, False], f"image {i}"
        if not boxes:
            add("no_boxes", where, f"{in_image[i, True]} crowds")
        if boxes > num_queries:
            add("more_boxes_than_queries", where, f"{boxes} boxes, {num_queries} queries")
        if boxes > max_detections:
            limits = "model.max_detections and dataloader.evaluator.max_dets_per_image allow"
            add("more_boxes_than_counted", where, f"{boxes} boxes, {limits} {max_detections}")
    return problems


def _entries(content: dict, key: str, add: Add) -> Iterator[tuple[str, dict]]:
    entries = content.get(key, [])
    if not isinstance(entries, list):
        add("not_coco", "file", f'its "{key}" is {short(entries)}, not a list')
    elif not entries and key != "annotations":  # which a test set may not have
        add("not_coco", "file", f'it has no "{key}"')
    for i, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield f"{key}[{i}]", entry
        else:
            add("wrong_type", f"{key}[{i}]", f"it is {short(entry)}, not an object")


def _wrong(entry: dict, key: str) -> list[tuple[str, str]]:
    """The kinds of problems that the fields of an entry have, and why."""
    return [
        (kind, f'"{field}" is {short(entry[field]) if field in entry else "missing"}, not {wanted}')
        for field, (kind, is_right, wanted) in FIELDS[key].items()
        if (field in entry or field not in OPTIONAL) and not is_right(entry.get(field))
    ]


def _by_id(content: dict, key: str, add: Add) -> dict[Any, dict]:
    """The images or categories that have an id, the first with each."""
    name, is_id, found = {"images": "image", "categories": "category"}[key], FIELDS[key]["id"][1], {}
    for where, entry in _entries(content, key, add):
        given = entry.get("id")
        if not is_id(given) and _is_id(_number(given)):
            add("id_type", where, f"its id is {short(given)}")
            given = entry["id"] = _number(given)
        if is_id(given):
            where = f"{name} {given}"
            if type(given) is not type(next(iter(found), given)):
                add("wrong_type", where, "some ids are numbers, others are texts")
            if found.setdefault(given, entry) is not entry:
                add("duplicate_id", where, "there is one before it")
        for kind, reason in _wrong(entry, key):
            add(kind, where, reason)
    return found


def _number(value: Any) -> int | None:
    """The whole number that a text or a float stands for."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _annotations(
    content: dict, images: dict, categories: dict, crowds_as_objects: bool, add: Add
) -> tuple[Counter, Counter]:
    """Checks the annotations and leaves those in `content` that can be used.

    Returns how many there are of (image id, whether it is a crowd), and the same for category ids.
    """
    lists = (("image_id", images), ("category_id", categories))
    known = [(field, ids, {_number(i): i for i in ids}) for field, ids in lists]
    # A size that is not known bounds nothing.
    sizes = {i: (image.get("width"), image.get("height")) for i, image in images.items()}
    sizes = {i: size if all(map(is_size, size)) else (inf, inf) for i, size in sizes.items()}
    in_image, in_class, seen = Counter(), Counter(), Counter()
    kept, anew, taken, found = [], [], set(), {}
    for place, annotation in _entries(content, "annotations", add):
        found, keys = {}, []
        for field, ids, by_number in known:
            given, number = annotation.get(field), None
            if not (type(given) in (int, str) and given in ids):
                number = _number(given)
                if number is not None and number in by_number:
                    annotation[field] = by_number[number]
                    found["id_type"] = f"{field} is {short(given)}"
                elif ids and _is_image_id(given):
                    found[f"unknown_{field[:-3]}"] = f"{field} is {short(given)}"
            keys.append(annotation.get(field) if _is_image_id(annotation.get(field)) else None)
        number, where = annotation.get("id"), place
        if _is_annotation_id(number) and number not in taken:
            taken.add(number)
            where = f"annotation {number}"
        if "unknown_image" not in found:
            found.update(_wrong(annotation, "annotations"))
            if where == place:
                found.setdefault("annotation_id", f"id {number} is taken")
            size = sizes.get(keys[0], (inf, inf))
            found.update(_check_box(annotation, size, found, crowds_as_objects, seen))
        if lost := found and {kind: why for kind, why in found.items() if KINDS[kind][0] == DROPPED}:
            found = lost
        else:
            kept.append(annotation)
            anew += [annotation] if where == place else []
            in_image[keys[0], annotation.get("iscrowd") == 1] += 1
            in_class[keys[1], annotation.get("iscrowd") == 1] += 1
        for kind, reason in found.items():
            add(kind, where, reason)
    for number, annotation in enumerate(anew, start=max(taken, default=0) + 1):
        annotation["id"] = number
    given = content.get("annotations")
    if given and isinstance(given, list):
        content["annotations"] = kept
        if not kept and images:
            add("nothing_left", "file", f"none of {len(given)} annotations can be used: {', '.join(found)}")
    boxes, past, fit, within = (seen[key] for key in ("boxes", "past", "fit", "within"))
    if boxes >= XYXY_BOXES and past >= XYXY_PAST * boxes and fit >= MOST * boxes:
        add(
            "looks_like_xyxy", "file", f"{past} of {boxes} boxes reach past their image, as corners {fit} fit"
        )
    if within and within >= MOST * boxes:
        add("looks_like_shares", "file", f"{within} of {boxes} boxes lie in the first pixel of their image")
    return in_image, in_class


def _check_box(
    annotation: dict, size: tuple[float, float], wrong: dict[str, str], crowds_as_objects: bool, seen: Counter
) -> dict[str, str]:
    """What is wrong with an annotation beyond its fields (`wrong`); what can be mended is mended.

    `seen` counts the "boxes", those "past" their images, those that "fit" as corners or lie "within" a pixel.
    """
    found = {}
    if crowds_as_objects and annotation.get("iscrowd") == 1:
        found["crowd"] = '"iscrowd" is 1'
        annotation["iscrowd"] = 0
    if annotation.get("ignore") == 1:
        found["ignore"] = '"ignore" is 1'
        annotation.update(ignore=0, iscrowd=1)
    if "segmentation" in wrong:
        del annotation["segmentation"]
    if "not_a_box" in wrong:
        return found
    x, y, w, h = annotation["bbox"]
    width, height = size
    if w <= SHORTEST or h <= SHORTEST:
        return {**found, "negative_size" if w < 0 or h < 0 else "no_area": f"bbox is {[x, y, w, h]}"}
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    is_past = x < -SLACK or y < -SLACK or x + w > width + SLACK or y + h > height + SLACK
    if annotation.get("iscrowd") != 1:
        seen["boxes"] += 1
        seen["past"] += is_past
        seen["fit"] += w > x and h > y and w <= width + SLACK and h <= height + SLACK
        seen["within"] += 0 <= x <= 1 and 0 <= y <= 1 and w <= 1 and h <= 1 and min(width, height) > 2
    if x1 - x0 <= SHORTEST or y1 - y0 <= SHORTEST:
        return {**found, "outside": f"bbox is {[x, y, w, h]}, the image {width} x {height}"}
    if is_past:
        found["partly_outside"] = f"bbox is {[x, y, w, h]}, the image {width} x {height}"
        w, h = x1 - x0, y1 - y0
        annotation["bbox"] = [x0, y0, w, h]
    area = annotation.get("area")
    if not (type(area) in (int, float) and 0 <= area < FARTHEST**2):
        found["incomplete"] = f'"area" is {short(area)}'
        area = w * h
    if annotation.get("iscrowd") is None:
        found["incomplete"] = '"iscrowd" is missing'
        annotation["iscrowd"] = 0
    annotation["area"] = min(area, w * h) if is_past else area
    return found
