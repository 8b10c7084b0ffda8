"""Register COCO-format datasets with Detectron2."""

from __future__ import annotations

import functools
import json
import logging
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from lors.data.check import Problem, check, mends, read_json, summarise

__all__ = ["num_classes", "register_coco"]

logger = logging.getLogger(__name__)


def register_coco(json_file: str, image_root: str, name: str | None = None) -> str:
    """Register a COCO-format dataset and return its name in Detectron2's catalogs.

    Args:
        json_file: the annotations, in COCO's instances format.
        image_root: the folder that the JSON's ``file_name`` entries are relative to.
        name: the name to register; by default one made from the two paths.

    Calling this again with the same arguments returns the same name and does nothing else.

    The annotations are checked. What `check.KINDS` says can be mended is mended, in a copy of the file that
    training and evaluation then use, and logged.

    Raises:
        ValueError: what is wrong and cannot be mended.
    """
    _check_exists("json_file", json_file, os.path.isfile)
    _check_exists("image_root", image_root, os.path.isdir)
    json_file, image_root = os.path.abspath(json_file), os.path.abspath(image_root)
    # Many datasets share annotations/instances_train.json, so the name needs the whole path.
    code = zlib.crc32(f"{json_file}\n{image_root}".encode())
    name = name or f"{Path(json_file).parent.name}_{Path(json_file).stem}_{code:08x}"

    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        if (known.get("source_json"), known.get("image_root")) == (json_file, image_root):
            return name
        raise ValueError(
            f"dataset {name!r} is already registered with {known.get('json_file')}, not {json_file}"
        )

    dataset = read_json(json_file)
    problems = check(dataset)
    _raise_errors(json_file, [problem for problem in problems if not problem.fixed])
    if problems:
        logger.warning("%s: %s", json_file, summarise(problems))
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    register_coco_instances(
        name,
        {
            # load_coco_json sets these two again, and insists on finding the same values.
            "thing_classes": [category["name"] for category in categories],
            "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(categories)},
            "source_json": json_file,
        },
        _write_copy(dataset, name) if mends(problems) else json_file,
        image_root,
    )
    return name


def num_classes(dataset: str) -> int:
    """Return the number of thing classes of a registered dataset."""
    if dataset not in DatasetCatalog.list():
        raise ValueError(f"dataset {dataset!r} is not registered in Detectron2's DatasetCatalog")
    if MetadataCatalog.get(dataset).get("thing_classes") is None:
        # register_coco_instances({}) leaves the classes out until the data is loaded.
        DatasetCatalog.get(dataset)
    return len(MetadataCatalog.get(dataset).thing_classes)


def _check_exists(argument: str, path: str, exists: Callable[[str], bool]) -> None:
    if path and exists(path):
        return
    problem = f"{argument} {str(path)!r} does not exist" if path else f"{argument} is empty"
    root = os.environ.get("DETECTRON2_DATASETS")
    where = "DETECTRON2_DATASETS is " + (repr(root) if root is not None else "not set")
    raise FileNotFoundError(f"{problem} ({where})")


def _raise_errors(json_file: str, errors: Sequence[Problem]) -> None:
    """One line with the number of each kind and the first of it."""
    if errors:
        counts = Counter(error.kind for error in errors)
        first = {error.kind: error for error in reversed(errors)}
        kinds = [f"{n} {kind} ({first[kind].id}: {first[kind].reason})" for kind, n in counts.items()]
        more = "; tools/check_dataset.py lists them all" if len(errors) > len(kinds) else ""
        raise ValueError(f"{json_file} cannot be used: {', '.join(kinds)}{more}")


@functools.cache
def _folder_of_copies() -> tempfile.TemporaryDirectory:
    """Removed when the program ends."""
    return tempfile.TemporaryDirectory(prefix="lors-datasets-")


def _write_copy(dataset: dict, name: str) -> str:
    path = Path(_folder_of_copies().name) / f"{zlib.crc32(name.encode()):08x}.json"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    return str(path)
