"""Datasets of one's own, registered with Detectron2: checked, mended, and with a model's classes."""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import logging
import os
import re
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from lors.data.check import check
from lors.data.classes import Classes, classes_of, match
from lors.data.fields import is_size, is_text
from lors.data.images import MAX_PIXELS, BadImage, check_size, missing, read_image
from lors.data.problems import ERROR, NOTED, Problem, summarise
from lors.data.voc import image_folder, is_voc, read_voc
from lors.errors import UserError

logger = logging.getLogger(__name__)

# How files begin that are taken for JSON files
_NO_JSON = {
    b"\x1f\x8b": "it is compressed by gzip; unzip it",
    b"PK\x03\x04": "it is a zip archive; unzip it",
    b"<": "it is HTML or XML; of Pascal VOC's files give the folder",
}


def register_coco(
    json_file: str,
    image_root: str,
    name: str | None = None,
    *,
    crowds_as_objects: bool = False,
    part: Sequence[float] = (0, 1),
    seed: int = 0,
) -> str:
    """Register a dataset and return its name in Detectron2's catalogs.

    Args:
        json_file: the annotations, in COCO's instances format or in Pascal VOC's, see `read_voc`.
        image_root: the folder that the JSON's ``file_name`` entries are relative to; empty for VOC's own.
        name: the name to register; by default one made from the paths and options.
        crowds_as_objects: see `check`.
        part, seed: the images from one share to another, in an order that follows from the seed.

    Calling this again with the same arguments returns the same name and does nothing else.

    The annotations are checked. What `problems.KINDS` says can be mended is mended, in a copy of the file
    that training and evaluation then use, and logged.

    Raises:
        UserError: what is wrong and cannot be mended.
    """
    if is_voc(json_file) and not image_root:
        image_root = image_folder(json_file)
    _check_exists("json_file", json_file)
    _check_exists("image_root", image_root)
    json_file, image_root = os.path.abspath(json_file), os.path.abspath(image_root)
    source = [json_file, image_root, crowds_as_objects, *part, seed]
    # Many datasets share annotations/instances_train.json, so the name needs the whole path.
    code = zlib.crc32(json.dumps(source).encode())
    name = name or f"{Path(json_file).parent.name}_{Path(json_file).stem}_{code:08x}"
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        if known.get("source") == source:
            return name
        raise UserError(
            f"dataset {name!r} is already registered with {known.get('json_file')}, not {json_file}"
        )
    dataset, problems = read(json_file, image_root)
    problems += check(dataset, image_root, crowds_as_objects=crowds_as_objects, by_file=is_voc(json_file))
    # Whether an image may be missing is for the mapper to say.
    errors = [problem for problem in problems if problem.done == ERROR and problem.kind != "missing_image"]
    if errors:
        raise UserError(
            f"{json_file} cannot be used: {summarise(errors)}; tools/check_dataset.py lists them all"
        )
    mended = [problem for problem in problems if problem.done not in (ERROR, NOTED)]
    if mended:
        logger.warning("%s: %s", json_file, summarise(mended))
    is_part = tuple(part) != (0, 1)
    if is_part:
        _keep_part(dataset, part, seed)
    is_copy = mended or is_part or is_voc(json_file)
    register(name, write_copy(dataset, name) if is_copy else json_file, image_root, dataset, source=source)
    return name


def register_split(split: str, dataset: Mapping[str, Any]) -> str | None:
    """Register the "train" or "test" part of a config's `dataset`; its name, or None without a test set.

    Args:
        dataset: train_json, train_images, test_json and test_images as for `register_coco`, where ~ is the
            home folder; val_fraction, about the share of the training images to test on where there is no
            test_json; val_seed, which they follow from; crowds_as_objects.

    Raises:
        UserError: as `register_coco` does; val_fraction is not a share, or there is a test_json too.
    """
    share = dataset["val_fraction"]
    if not 0 <= share < 1 or (share and dataset["test_json"]):
        raise UserError(
            f"dataset.val_fraction={share}: must be from 0 to below 1, and 0 beside dataset.test_json"
        )
    if split == "test" and not (share or dataset["test_json"]):
        return None
    which = "test" if split == "test" and not share else "train"
    keys = (f"{which}_json", f"{which}_images")
    json_file, image_root = (os.path.expanduser(dataset[key] or "") for key in keys)
    _check_exists(f"dataset.{which}_json", json_file)
    if image_root or not is_voc(json_file):
        _check_exists(f"dataset.{which}_images", image_root)
    return register_coco(
        json_file,
        image_root,
        crowds_as_objects=dataset["crowds_as_objects"],
        part=(0, 1) if not share else (0, share) if split == "test" else (share, 1),
        seed=dataset["val_seed"],
    )


def read(path: str, image_root: str) -> tuple[Any, list[Problem]]:
    """The content of a JSON file, or of VOC's files in the same form, and what is odd about the file.

    Raises:
        UserError: it is none.
    """
    if is_voc(path):
        return read_voc(path, image_root)
    content = Path(path).read_bytes()
    try:
        dataset = json.loads(content)
    except (ValueError, RecursionError) as error:
        start = content.lstrip(codecs.BOM_UTF8 + b" \t\r\n")
        reason = next((what for begin, what in _NO_JSON.items() if start.startswith(begin)), error)
        raise UserError(f"{path} is not a JSON file: {reason if start else 'it is empty'}") from error
    is_plain = content[:1].isascii() and b"\0" not in content[:4]
    return dataset, [] if is_plain else [Problem("encoding", "file", f"it begins with {content[:3]!r}")]


def with_classes(dataset: str, classes: Classes) -> str:
    """The name of a dataset whose classes are those of a model: this one, or a copy matched by name.

    Raises:
        UserError: there are objects of classes that the model does not have.
    """
    own, metadata = classes_of(dataset).names, MetadataCatalog.get(dataset)
    if own == classes.names:
        return dataset
    if metadata.get("json_file") is None:
        raise UserError(f"dataset {dataset}: its classes {own} are not the model's {classes.names}")
    if list(classes.ids) != sorted(classes.ids):  # by which Detectron2 orders classes
        classes = Classes(classes.names, [*range(1, len(classes.names) + 1)])
    name = f"{dataset}_{zlib.crc32(json.dumps(classes).encode()):08x}"
    if name not in DatasetCatalog.list():
        content, _ = read(metadata.json_file, metadata.image_root)
        problems = match(content, classes)
        where = metadata.get("source", [metadata.json_file])[0]
        if errors := [problem for problem in problems if problem.done == ERROR]:
            raise UserError(f"{where} cannot be used: {summarise(errors)}")
        logger.warning("%s: %s", where, summarise(problems))
        register(name, write_copy(content, name), metadata.image_root, content)
    return name


def check_records(
    records: Sequence[dict[str, Any]],
    name: str,
    *,
    on_bad_image: str = "raise",
    num_queries: float,
    max_detections: float = inf,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """`check` for dataset dicts that are about to be used; logs what can be worked with.

    Raises:
        UserError: what cannot be; no image has a box to learn or can be read.
    """
    numbers = count(1)
    dataset = {
        "images": [{**_plain(record), "id": i} for i, record in enumerate(records)],
        "categories": [{"id": i, "name": text} for i, text in enumerate(classes_of(name).names)],
        "annotations": [
            {"iscrowd": 0, "area": 1, **_plain(a), "id": next(numbers), "image_id": i, "bbox": _xywh(a)}
            for i, record in enumerate(records)
            for a in record.get("annotations", ())
        ],
    }
    problems = check(dataset, "", num_queries=num_queries, max_detections=max_detections, by_file=True)
    errors = [problem for problem in problems if problem.done == ERROR]
    if on_bad_image == "skip":
        lost = missing(record["file_name"] for record in records)
        errors = [problem for problem in errors if problem.kind != "missing_image"]
        # With none to draw instead, a loader would look for one for ever.
        if all(record["file_name"] in lost or check_image(record, "", max_pixels) for record in records):
            raise UserError(f"dataset {name}: none of its {len(records)} images can be used")
    if errors:
        raise UserError(f"dataset {name} cannot be used: {summarise(errors)}")
    if problems:
        logger.warning("dataset %s: %s", name, summarise(problems))


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """With Python's numbers for NumPy's, which code that registers a dataset often has."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in entry.items()}


def _xywh(annotation: Mapping[str, Any]) -> list[float]:
    box = np.asarray(annotation["bbox"]).tolist()
    return BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS) if len(box) == 4 else box


def check_image(image: Any, image_root: str, max_pixels: int = MAX_PIXELS) -> Problem | None:
    """What is wrong with the file, which is read whole, of one entry of a dataset's images.

    What is wrong with the entry itself, and whether the file is there, is for `check` to find.
    """
    if not (isinstance(image, dict) and is_text(image.get("file_name"))):
        return None
    name, kind = os.path.join(image_root, image["file_name"]), "bad_image"
    size = [image.get(side) for side in ("width", "height")]
    try:
        pixels, kind = read_image(name, max_pixels), "image_size"
        if all(map(is_size, size)):
            check_size(name, pixels, *size)
    except BadImage as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            return Problem(kind, f"image {image.get('id')}", str(error))
    return None


def register(name: str, json_file: str, image_root: str, dataset: dict, **metadata: Any) -> None:
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    # load_coco_json sets the first two again, and insists on finding the same values.
    known = {
        "thing_classes": [category["name"] for category in categories],
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(categories)},
        **metadata,
    }
    register_coco_instances(name, known, json_file, image_root)


def _keep_part(dataset: dict, part: Sequence[float], seed: int) -> None:
    """Each image's part follows from its name alone, so that a set that grows tests on none it trained on."""
    images = dataset["images"]
    dataset["images"] = [i for i in images if part[0] <= _place(i["file_name"], seed) < part[1]]
    kept = {image["id"] for image in dataset["images"]}
    if not kept:
        raise UserError(
            f"dataset.val_fraction leaves no image of {len(images)} from {part[0]} to {part[1]}; "
            "another dataset.val_seed may"
        )
    dataset["annotations"] = [a for a in dataset.get("annotations", ()) if a["image_id"] in kept]


def _place(file_name: str, seed: int) -> float:
    """From 0 to below 1, as if at random."""
    # Roboflow writes several augmented copies of an image, IMAGE.rf.HASH.jpg; they belong together.
    name = re.sub(r"\.rf\.[0-9a-zA-Z]+(?=\.)", "", os.path.basename(file_name))
    name = f"{seed}/{name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(name).digest()[:6], "big") / 2**48


def _check_exists(argument: str, path: str) -> None:
    if path and os.path.exists(path):
        return
    if not path:
        raise UserError(f"{argument} is empty")
    root = os.environ.get("DETECTRON2_DATASETS")
    where = "DETECTRON2_DATASETS is " + (repr(root) if root is not None else "not set")
    raise UserError(f"{argument} {str(path)!r} does not exist" + f" ({where})" * (not os.path.isabs(path)))


@functools.cache
def _folder_of_copies() -> tempfile.TemporaryDirectory:
    """Removed when the program ends."""
    return tempfile.TemporaryDirectory(prefix="lors-datasets-")


def write_copy(dataset: dict, name: str) -> str:
    path = Path(_folder_of_copies().name) / f"{zlib.crc32(name.encode()):08x}.json"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    return str(path)
