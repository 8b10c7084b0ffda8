"""What the fields of a dataset in COCO format hold."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

FARTHEST = 1e9


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and -FARTHEST < value < FARTHEST


def is_id(value: Any) -> bool:
    return type(value) is int and -(2**63) < value < 2**63  # NumPy keeps them in 64 bits


def is_image_id(value: Any) -> bool:
    return isinstance(value, str) or is_id(value)


def is_annotation_id(value: Any) -> bool:
    # pycocotools takes a match with id 0 for no match, and keeps ids as floats.
    return type(value) is int and 0 < value < 2**53


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def is_size(value: Any) -> bool:
    return is_number(value) and value > 0 and value == int(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def is_segmentation(value: Any) -> bool:
    if isinstance(value, list) and all(isinstance(polygon, list) for polygon in value):
        return not value or any(len(polygon) % 2 == 0 and len(polygon) >= 6 for polygon in value)
    return not value or (isinstance(value, dict) and "size" in value and "counts" in value)


def number_of(value: Any) -> int | None:
    """The whole number that a text or a float stands for."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def box_around(polygons: Any) -> list[float] | None:
    """The bounding box of a segmentation's polygons."""
    if not (isinstance(polygons, list) and is_segmentation(polygons)):
        return None
    numbers = [polygon for polygon in polygons if len(polygon) % 2 == 0 and len(polygon) >= 6]
    xs, ys = ([number for polygon in numbers for number in polygon[k::2]] for k in (0, 1))
    if not xs or not all(map(is_number, xs + ys)):
        return None
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


# list: field: the kind of problem where it is wrong, what is right, and that in words
FIELDS = {
    "images": {
        "id": ("wrong_type", is_image_id, "a whole number below 2^63 or a text"),
        "file_name": ("wrong_type", is_text, "a text"),
    },
    "categories": {
        "id": ("wrong_type", is_id, "a whole number below 2^63"),
        "name": ("wrong_type", is_text, "a text"),
    },
    "annotations": {
        "id": ("annotation_id", is_annotation_id, "a whole number above 0"),
        "image_id": ("wrong_type", is_image_id, "a whole number"),
        "category_id": ("wrong_type", is_id, "a whole number"),
        "bbox": ("not_a_box", _is_box, "a list of four numbers"),
        "iscrowd": ("wrong_type", lambda value: value in (None, 0, 1), "0 or 1"),
        "ignore": ("wrong_type", lambda value: value in (0, 1), "0 or 1"),
        "segmentation": ("segmentation", is_segmentation, "polygons or a mask"),
    },
}
OPTIONAL = ("iscrowd", "ignore", "segmentation")


def wrong_fields(entry: dict, key: str) -> list[tuple[str, str]]:
    """The kinds of problems that the fields of an entry have, and why."""
    return [
        (kind, f'"{field}" is {short(entry[field]) if field in entry else "missing"}, not {wanted}')
        for field, (kind, is_right, wanted) in FIELDS[key].items()
        if (field in entry or field not in OPTIONAL) and not is_right(entry.get(field))
    ]
