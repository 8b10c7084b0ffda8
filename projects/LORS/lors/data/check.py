"""What is wrong with a dataset in COCO format, and mending what can be.

`KINDS` lists every kind of problem with what becomes of it.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from math import inf
from reprlib import repr as short
from typing import Any, NamedTuple

from lors.data.images import BadImage, check_size, find_files, read_image

Add = Callable[[str, str, str], None]

ERROR, DROPPED, NOTED = "error", "dropped", "noted"

# kind: what is done about it, what it is
KINDS = {
    "not_coco": (ERROR, "images or categories are missing, or they or annotations are no list"),
    "wrong_type": (ERROR, "a field is missing or its value is of another type than the format's"),
    "duplicate_image": (ERROR, "several images have this id"),
    "duplicate_category": (ERROR, "several categories have this id"),
    "unknown_category": (ERROR, "no category has the annotation's category_id"),
    "unknown_class": (ERROR, "there are objects of classes that the model was not trained on"),
    "not_a_box": (ERROR, "bbox is not a list of four numbers"),
    "not_finite": (ERROR, "bbox has a NaN, an infinity or a number beyond a thousand million"),
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
    "file_name": ("found", "the image file is written in another way: \\, %20, other folders, a.JPG for a.jpg"),
    "id_type": ("matched", "an id is the right number as a text or with a decimal point"),
    "annotation_id": ("numbered anew", "the id is missing, taken, or not a whole number above 0"),
    "same_name": ("renamed", "a category before it has this name"),
    "other_ids": ("matched by name", "the classes have other ids or another order than in training"),
    "incomplete": ("filled in", "area (width x height) or iscrowd (0) is missing"),
    "segmentation": ("left out", "there is no polygon and no mask in it; the box stays"),
    "ignore": ("made a crowd", "the object is to be ignored"),
    "crowd": ("made an object", "the annotation is a crowd, and crowds are to be objects"),
    "no_boxes": (NOTED, "an image without boxes: not trained on, evaluated"),
    "only_crowds": (NOTED, "an image whose boxes are all crowds: not trained on, evaluated"),
    "class_without_boxes": (NOTED, "these classes are not learnt and have no AP: crowds do not count"),
    "no_boxes_at_all": (NOTED, "there is nothing to train on and no AP"),
    "more_boxes_than_queries": (NOTED, "an image has boxes that no query can find"),
    "more_boxes_than_counted": (NOTED, "an image has boxes beyond what is detected or evaluated: AP is too low"),
}

# Detectron2 takes boxes with a shorter side for empty.
SHORTEST = 1e-5
FARTHEST = 1e9
# In pixels; coordinates are often rounded.
SLACK = 1
# Boxes are guessed to be xyxy where there are so many at least, this share of them reaches past the image as
# xywh, and this share fits as xyxy. They are guessed to be shares where the last share is within one pixel.
XYXY_BOXES, XYXY_PAST, MOST = 10, 0.2, 0.95


def _is_id(value: Any) -> bool:
    # NumPy keeps them in 64 bits.
    return type(value) is int and -(2**63) < value < 2**63


def _is_image_id(value: Any) -> bool:
    return isinstance(value, str) or _is_id(value)


def _is_annotation_id(value: Any) -> bool:
    # pycocotools takes a match with id 0 for no match, and keeps ids as floats.
    return type(value) is int and 0 < value < 2**53


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


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
        "id": ("wrong_type", _is_image_id, "a whole number below 2^63 or a text"),
        "file_name": ("wrong_type", _is_text, "a text"),
        "width": ("wrong_type", _is_size, "a whole number above 0"),
        "height": ("wrong_type", _is_size, "a whole number above 0"),
    },
    "categories": {
        "id": ("wrong_type", _is_id, "a whole number below 2^63"),
        "name": ("wrong_type", _is_text, "a text"),
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


class Classes(NamedTuple):
    """Names of classes in a model's order, and the category id that stands for each."""

    names: list[str]
    ids: list[int]


def summarise(problems: Iterable[Problem]) -> str:
    """In one line how many problems there are of each kind, what is done about it, and the first."""
    of_kind: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        of_kind[problem.kind].append(problem)
    return "; ".join(
        f"{len(of_kind[kind])} {kind} ({done}; {of_kind[kind][0].id}: {of_kind[kind][0].reason})"
        for kind, (done, _) in KINDS.items()
        if kind in of_kind
    )


def check(
    dataset: Any,
    image_root: str | None = None,
    *,
    crowds_as_objects: bool = False,
    classes: Classes | None = None,
    num_queries: float = inf,
    max_detections: float = inf,
) -> list[Problem]:
    """All problems of a dataset, the content of a COCO-format JSON file, but those inside its image files.

    What can be mended is mended in `dataset`, as `KINDS` says.

    Args:
        image_root: the folder of the images, to look whether they are there.
        crowds_as_objects: annotations with "iscrowd" 1 are objects, as some tools write masks.
        classes: of a model; the categories become these, matched by name.
        num_queries, max_detections: in an image; where there are more boxes is noted.
    """
    content, problems = dataset if isinstance(dataset, dict) else {}, []

    def add(kind: str, where: str, reason: str) -> None:
        problems.append(Problem(kind, where, reason))

    images, categories = (_by_id(content, key, add) for key in ("images", "categories"))
    if image_root is not None:
        named = {i: image["file_name"] for i, image in images.items() if _is_text(image.get("file_name"))}
        for i, name in find_files(named, image_root).items():
            kind = "missing_image" if name is None else "file_name"
            add(kind, f"image {i}", f"{named[i]!r} is {name or 'not in ' + image_root}")
            images[i]["file_name"] = name or named[i]
    names: set[str] = set()
    for i, category in categories.items():
        name, copy = category.get("name"), 1
        while _is_text(name) and category["name"] in names:
            copy += 1
            category["name"] = f"{name} ({copy})"
            add("same_name", f"category {i}", f"{name!r} becomes {category['name']!r}")
        names.add(str(category.get("name")))
    ids = {"image": images, "category": categories}
    in_image, in_class = _annotations(content, ids, crowds_as_objects, add)
    kept = sum(in_image.values())
    if classes is not None:
        _match(content, categories, classes, in_class, add)
    without = [i for i in categories if kept and classes is None and not in_class[i, False]]
    if without:
        reason = ", ".join(short(categories[i].get("name")) for i in without)
        if crowds := sum(in_class[i, True] for i in without):
            reason += f"; crowds_as_objects=true would take {crowds} crowds of theirs for objects"
        add("class_without_boxes", "file", reason)
    if images and not kept:
        add("no_boxes_at_all", "file", "no image has a box")
    for i in images if kept else ():
        boxes, crowds = in_image[i, False], in_image[i, True]
        if not boxes:
            add("only_crowds" if crowds else "no_boxes", f"image {i}", f"{boxes} boxes, {crowds} crowds")
        if boxes > num_queries:
            add("more_boxes_than_queries", f"image {i}", f"{boxes} boxes, {num_queries} queries")
        if boxes > max_detections:
            limits = "model.max_detections, dataloader.evaluator.max_dets_per_image"
            add("more_boxes_than_counted", f"image {i}", f"{boxes} boxes, {max_detections} count ({limits})")
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
        (kind, f'"{field}" is {short(entry[field])}, not {wanted}' if field in entry else f'"{field}" is missing')
        for field, (kind, is_right, wanted) in FIELDS[key].items()
        if not is_right(entry.get(field)) and (field in entry or field not in OPTIONAL)
    ]


def _by_id(content: dict, key: str, add: Add) -> dict[Any, dict]:
    """The images or categories that have an id, the first with each."""
    name = {"images": "image", "categories": "category"}[key]
    is_id, found = FIELDS[key]["id"][1], {}
    for place, entry in _entries(content, key, add):
        if not is_id(entry.get("id")) and _is_id(_number(entry.get("id"))):
            add("id_type", place, f"its id is {short(entry['id'])}")
            entry["id"] = _number(entry["id"])
        known = entry.get("id")
        where = f"{name} {known}" if is_id(known) else place
        for kind, reason in _wrong(entry, key):
            add(kind, where, reason)
        if not is_id(known):
            continue
        if known in found:
            add(f"duplicate_{name}", where, f"{place} has this id too")
        elif found and type(known) is not type(next(iter(found))):
            add("wrong_type", where, "some ids are numbers, others are texts")
        found.setdefault(known, entry)
    return found


def _number(value: Any) -> int | None:
    """The whole number that a text or a float stands for."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < 20 else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if type(value) is int else None


def _annotations(
    content: dict, ids: dict[str, dict], crowds_as_objects: bool, add: Add
) -> tuple[Counter, Counter]:
    """Checks the annotations and leaves those in `content` that can be used.

    Args:
        ids: of "image" and "category", the entries.

    Returns:
        how many are left of (image id, whether it is a crowd), and of (category id, whether it is a crowd).
    """
    numbers = {name: {_number(i): i for i in of_list} for name, of_list in ids.items()}
    kept, unnumbered, taken, seen = [], [], {}, Counter()
    counts = {"image": Counter(), "category": Counter()}
    total = 0
    for total, (place, annotation) in enumerate(_entries(content, "annotations", add), start=1):
        found = []
        for name, of_list in ids.items():
            field = f"{name}_id"
            given = annotation.get(field)
            if _is_image_id(given) and given in of_list:
                continue
            number = _number(given)
            if number is not None and number in numbers[name]:
                annotation[field] = numbers[name][number]
                found.append(("id_type", f"{field} is {short(given)}"))
            elif of_list and _is_image_id(given):
                found.append((f"unknown_{name}", f"no {name} has id {short(given)}"))
        if found and found[0][0] == "unknown_image":
            found = found[:1]
        else:
            found += _wrong(annotation, "annotations")
            image = ids["image"].get(annotation["image_id"]) if _is_image_id(annotation.get("image_id")) else None
            found += _check_box(annotation, image or {}, dict(found), crowds_as_objects, seen)
        number = annotation.get("id")
        has_id = _is_annotation_id(number)
        is_taken = has_id and number in taken
        if is_taken:
            found.append(("annotation_id", f"{taken[number]} has it too"))
        where = f"annotation {number}" if has_id and not is_taken else place
        if has_id:
            taken.setdefault(number, where)
        is_dropped = any(KINDS[kind][0] == DROPPED for kind, _ in found)
        for kind, reason in found:
            if not (is_dropped and kind == "annotation_id"):
                add(kind, where, reason)
        if is_dropped:
            continue
        kept.append(annotation)
        if not has_id or is_taken:
            unnumbered.append(annotation)
        for name, count in counts.items():
            if _is_image_id(annotation.get(f"{name}_id")):
                count[annotation[f"{name}_id"], annotation.get("iscrowd") == 1] += 1
    for number, annotation in enumerate(unnumbered, start=max(taken, default=0) + 1):
        annotation["id"] = number
    if isinstance(content.get("annotations"), list):
        content["annotations"] = kept
    if total and not kept and ids["image"]:
        add("nothing_left", "file", f"not one of {total} annotations can be used")
    boxes, past, fit, within = (seen[key] for key in ("boxes", "past", "fit", "within"))
    if boxes >= XYXY_BOXES and past >= XYXY_PAST * boxes and fit >= MOST * boxes:
        reason = f"as x, y, width, height {past} of {boxes} boxes reach past their image, "
        add("looks_like_xyxy", "file", f"{reason}as x0, y0, x1, y1 {fit} fit")
    if within and within >= MOST * boxes:
        add("looks_like_shares", "file", f"{within} of {boxes} boxes lie within the first pixel of their image")
    return counts["image"], counts["category"]


def _check_box(
    annotation: dict, image: dict, wrong: dict[str, str], crowds_as_objects: bool, seen: Counter[str]
) -> Iterator[tuple[str, str]]:
    """What is wrong with an annotation beyond its fields' types; what can be mended is mended.

    Args:
        wrong: what is wrong with its fields.
        seen: counts the "boxes", those that reach "past" their images, those that would "fit" if their numbers
            were corners, and those "within" the first pixel.
    """
    if crowds_as_objects and annotation.get("iscrowd") == 1:
        yield "crowd", '"iscrowd" is 1'
        annotation["iscrowd"] = 0
    if annotation.get("ignore") == 1:
        yield "ignore", '"ignore" is 1'
        annotation.update(ignore=0, iscrowd=1)
    if "segmentation" in wrong:
        del annotation["segmentation"]
    if "not_a_box" in wrong:
        return
    x, y, w, h = box = annotation["bbox"]
    kind = None
    if not all(-FARTHEST < value < FARTHEST for value in box):
        kind = "not_finite"
    elif w <= SHORTEST or h <= SHORTEST:
        kind = "negative_size" if w < 0 or h < 0 else "no_area"
    if kind:
        yield kind, f"bbox is {short(box)}"
        return
    # A size that is not known bounds nothing.
    width, height = (image[side] if _is_size(image.get(side)) else inf for side in ("width", "height"))
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    is_past = x < -SLACK or y < -SLACK or x + w > width + SLACK or y + h > height + SLACK
    if annotation.get("iscrowd") != 1:
        seen["boxes"] += 1
        seen["past"] += is_past
        seen["fit"] += w > x and h > y and w <= width + SLACK and h <= height + SLACK
        seen["within"] += 0 <= x <= 1 and 0 <= y <= 1 and w <= 1 and h <= 1 and min(width, height) > 2
    is_empty = x1 - x0 <= SHORTEST or y1 - y0 <= SHORTEST
    if is_empty or is_past:
        kind = "outside" if is_empty else "partly_outside"
        yield kind, f"bbox is {short(box)}, the image {width} x {height}"
    if is_empty:
        return
    area = annotation.get("area")
    has_area = type(area) in (int, float) and 0 <= area < FARTHEST**2
    if is_past:
        w, h = x1 - x0, y1 - y0
        annotation["bbox"] = [x0, y0, w, h]
        if has_area:
            annotation["area"] = min(area, w * h)
    if not has_area or annotation.get("iscrowd") is None:
        yield "incomplete", '"area" or "iscrowd" is missing or no number'
        annotation["area"] = area if has_area else w * h
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0


def _match(content: dict, categories: dict[int, dict], classes: Classes, in_class: Counter, add: Add) -> None:
    """Makes the categories those of a model, by name, and the annotations' ids with them."""
    ids = dict(zip(classes.names, classes.ids))
    names = {i: category.get("name") for i, category in categories.items()}
    for kind, wanted in (("unknown_class", True), ("unused_class", False)):
        found = [i for i, name in names.items() if name not in ids]
        found = [short(names[i]) for i in found if (in_class[i, False] + in_class[i, True] > 0) == wanted]
        if found:
            add(kind, "file", f"{', '.join(found)}; the model's classes are {', '.join(map(short, ids))}")
    if [*names.values()] != classes.names or [*names] != classes.ids:
        add("other_ids", "file", f"now {', '.join(f'{short(name)} is {i}' for name, i in ids.items())}")
        for annotation in content["annotations"]:
            annotation["category_id"] = ids.get(names.get(annotation["category_id"]))
        content["categories"] = [{"id": i, "name": name} for name, i in ids.items()]


def check_image(image: Any, image_root: str) -> Problem | None:
    """What is wrong with the file, which is read whole, of one entry of a dataset's images.

    What is wrong with the entry itself is for `check` to find.
    """
    if not (isinstance(image, dict) and _is_text(image.get("file_name"))):
        return None
    name, kind = os.path.join(image_root, image["file_name"]), "bad_image"
    try:
        pixels = read_image(name)
        kind, size = "image_size", (image.get("width"), image.get("height"))
        if all(map(_is_size, size)):
            check_size(name, pixels, *size)
    except BadImage as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        return Problem(kind, f"image {image.get('id')}", str(error))
    return None
