"""What is wrong with a dataset in COCO format, and mending what can be."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from math import inf
from reprlib import repr as short
from typing import Any

from lors.data.fields import (
    FARTHEST,
    FIELDS,
    box_around,
    is_annotation_id,
    is_id,
    is_image_id,
    is_number,
    is_size,
    is_text,
    number_of,
    wrong_fields,
)
from lors.data.images import BadImage, find_files, plain_name, size_of
from lors.data.problems import DROPPED, KINDS, Problem

# Detectron2 takes boxes with a shorter side for empty.
SHORTEST = 1e-5
# In pixels; coordinates are often rounded.
SLACK = 1
# Boxes are guessed to be xyxy where there are so many at least, this share of them reaches past the image as
# xywh, and most fit as xyxy. They are guessed to be shares where most lie within the first pixel.
XYXY_BOXES, XYXY_PAST, MOST = 10, 0.2, 0.95

# A class's name with a line break cannot be drawn.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Add = Callable[[str, str, str], None]


def check(
    dataset: Any,
    image_root: str | None = None,
    *,
    crowds_as_objects: bool = False,
    num_queries: float = inf,
    max_detections: float = inf,
    by_file: bool = False,
) -> list[Problem]:
    """All problems of a dataset, the content of a COCO-format JSON file, but those inside its image files.

    What can be mended is mended in `dataset`, as `KINDS` says.

    Args:
        image_root: the folder of the images, to look whether they are there.
        crowds_as_objects: annotations with "iscrowd" 1 are objects, as some tools write masks.
        num_queries, max_detections: in an image; where there are more boxes is noted.
        by_file: the ids are none of the user's: problems of images and annotations name the image's file.
    """
    content, problems = dataset if isinstance(dataset, dict) else {}, []
    named: dict[str, str] = {}
    if by_file:
        files = {image["id"]: str(image.get("file_name")) for image in content["images"]}
        named = {f"annotation {a['id']}": files[a["image_id"]] for a in content["annotations"]}
        named |= {f"image {i}": file for i, file in files.items()}

    def add(kind: str, where: str, reason: str) -> None:
        problems.append(Problem(kind, named.get(where, where), reason))

    images, categories = (_by_id(content, key, add) for key in ("images", "categories"))
    _image_files(images, image_root, add)
    in_image, in_class = _annotations(content, images, categories, crowds_as_objects, add)
    _same_names(content, categories, {i for i, _ in in_class}, add)
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


def _image_files(images: dict[Any, dict], image_root: str | None, add: Add) -> None:
    named = {i: image["file_name"] for i, image in images.items() if is_text(image.get("file_name"))}
    for i, name in find_files(named, image_root).items() if image_root is not None else ():
        path, kind = os.path.join(image_root, named[i]), "missing_image"
        if name:
            images[i]["file_name"] = name
            kind = "file_name" if plain_name(name) == plain_name(named[i]) else "other_folder"
        add(kind, f"image {i}", f"{path} is {name or 'not there'}")
    first: dict[str, Any] = {}
    for i, image in images.items():
        name, size = image.get("file_name"), [image.get(side) for side in ("width", "height")]
        if is_text(name) and first.setdefault(name, i) != i:
            add("same_file", f"image {i}", f"{name} is image {first[name]}")
        if not all(map(is_size, size)):
            kind = "wrong_type"
            if image_root and is_text(name):
                with suppress(BadImage):
                    image["width"], image["height"] = size_of(os.path.join(image_root, name))
                    kind = "no_size"
            add(kind, f"image {i}", "width and height are {}, {}, not whole numbers above 0".format(*size))


def _same_names(content: dict, categories: dict[Any, dict], used: set[Any], add: Add) -> None:
    """Leaves a name to one category, the first that has annotations."""
    names = [category.get("name") for category in categories.values()]
    for name in {name: None for name in names if is_text(name) and names.count(name) > 1}:
        alike = [i for i in categories if categories[i].get("name") == name]
        first, *others = sorted(alike, key=lambda i: i not in used)
        for i in others:
            if i in used:
                names.append(next(n for k in count(2) if (n := f"{name} ({k})") not in names))
                categories[i]["name"] = names[-1]
                add("same_name", f"category {i}", f"{name!r} becomes {names[-1]!r}")
            else:
                empty = categories.pop(i)
                content["categories"] = [c for c in content["categories"] if c is not empty]
                add("empty_class", f"category {i}", f"{name!r} is category {first} too")


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


def _by_id(content: dict, key: str, add: Add) -> dict[Any, dict]:
    """The images or categories that have an id, the first with each."""
    name, fits, found = {"images": "image", "categories": "category"}[key], FIELDS[key]["id"][1], {}
    for where, entry in _entries(content, key, add):
        given = entry.get("id")
        if not fits(given) and is_id(number_of(given)):
            add("id_type", where, f"its id is {short(given)}")
            given = entry["id"] = number_of(given)
        if fits(given):
            where = f"{name} {given}"
            if type(given) is not type(next(iter(found), given)):
                add("wrong_type", where, "some ids are numbers, others are texts")
            if found.setdefault(given, entry) is not entry:
                add("duplicate_id", where, "there is one before it")
        if key == "categories" and type(entry.get("name")) in (int, float):
            add("name_type", where, f"its name is {short(entry['name'])}")
            entry["name"] = str(entry["name"])
        if key == "categories" and is_text(entry.get("name")) and _CONTROL.search(entry["name"]):
            add("control", where, f"its name is {short(entry['name'])}")
            entry["name"] = " ".join(_CONTROL.sub(" ", entry["name"]).split())
        for kind, reason in wrong_fields(entry, key):
            add(kind, where, reason)
    return found


def _annotations(
    content: dict, images: dict, categories: dict, crowds_as_objects: bool, add: Add
) -> tuple[Counter, Counter]:
    """Checks the annotations and leaves those in `content` that can be used.

    Returns how many there are of (image id, whether it is a crowd), and the same for category ids.
    """
    lists = (("image_id", images), ("category_id", categories))
    known = [(field, ids, {number_of(i): i for i in ids}, short(list(ids))) for field, ids in lists]
    # A size that is not known bounds nothing.
    sizes = {i: (image.get("width"), image.get("height")) for i, image in images.items()}
    sizes = {i: size if all(map(is_size, size)) else (inf, inf) for i, size in sizes.items()}
    in_image, in_class, seen, times = (Counter() for _ in range(4))
    kept, anew, taken, found = [], [], set(), {}
    for place, annotation in _entries(content, "annotations", add):
        found, keys = {}, []
        for field, ids, by_number, shown in known:
            given, number = annotation.get(field), None
            if not (type(given) in (int, str) and given in ids):
                number = number_of(given)
                if number is not None and number in by_number:
                    annotation[field] = by_number[number]
                    found["id_type"] = f"{field} is {short(given)}"
                elif ids and is_image_id(given):
                    found[f"unknown_{field[:-3]}"] = f"{field} is {short(given)}, not one of {shown}"
            keys.append(annotation.get(field) if is_image_id(annotation.get(field)) else None)
        number, where = annotation.get("id"), place
        if is_annotation_id(number) and number not in taken:
            taken.add(number)
            where = f"annotation {number}"
        if "unknown_image" not in found:
            if not annotation.get("bbox") and (box := box_around(annotation.get("segmentation"))):
                annotation["bbox"], found["no_box"] = box, f"now {box}"
            found.update(wrong_fields(annotation, "annotations"))
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
            if "not_a_box" not in found and annotation.get("iscrowd") != 1:
                box = (*keys, *annotation["bbox"])
                times[box] += 1
                if times[box] > 1:
                    found["same_box"] = f"bbox is {annotation['bbox']}"
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
    elif boxes >= XYXY_BOXES and past >= XYXY_PAST * boxes:
        add("often_outside", "file", f"{past} of {boxes} boxes reach past their image")
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
    attributes = annotation.get("attributes")
    turned = attributes.get("rotation") if isinstance(attributes, dict) else None
    if is_number(turned) and turned % 360:
        found["rotated"] = f"by {turned:g} degrees"
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
    if w < 1 or h < 1:
        found["below_a_pixel"] = f"bbox is {annotation['bbox']}"
    area = annotation.get("area")
    if not (type(area) in (int, float) and 0 < area < FARTHEST**2):
        found["incomplete"] = f'"area" is {short(area)}'
        area = w * h
    if annotation.get("iscrowd") is None:
        found["incomplete"] = '"iscrowd" is missing'
        annotation["iscrowd"] = 0
    annotation["area"] = min(area, w * h) if is_past else area
    return found
