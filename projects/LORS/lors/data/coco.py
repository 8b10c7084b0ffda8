"""Register COCO-format datasets with Detectron2."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Callable

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

__all__ = ["num_classes", "register_coco"]


def register_coco(json_file: str, image_root: str, name: str | None = None) -> str:
    """Register a COCO-format dataset and return its name in Detectron2's catalogs.

    Args:
        json_file: the annotations, in COCO's instances format.
        image_root: the folder that the JSON's ``file_name`` entries are relative to.
        name: the name to register; by default one made from the two paths.

    Calling this again with the same arguments returns the same name and does nothing else.
    """
    _check_exists("json_file", json_file, os.path.isfile)
    _check_exists("image_root", image_root, os.path.isdir)
    json_file, image_root = os.path.abspath(json_file), os.path.abspath(image_root)
    name = name or _name_from_paths(json_file, image_root)

    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        if (known.get("json_file"), known.get("image_root")) == (json_file, image_root):
            return name
        raise ValueError(
            f"dataset {name!r} is already registered with {known.get('json_file')}, not {json_file}"
        )

    categories = sorted(_read_categories(json_file), key=lambda category: category["id"])
    register_coco_instances(
        name,
        {
            # load_coco_json sets these two again, and insists on finding the same values.
            "thing_classes": [category["name"] for category in categories],
            "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(categories)},
        },
        json_file,
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


def _name_from_paths(json_file: str, image_root: str) -> str:
    # Many datasets share annotations/instances_train.json, so the name needs the whole path.
    code = zlib.crc32(f"{json_file}\n{image_root}".encode())
    return f"{Path(json_file).parent.name}_{Path(json_file).stem}_{code:08x}"


def _read_categories(json_file: str) -> list[dict]:
    try:
        content = json.loads(Path(json_file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{json_file} is not a JSON file: {error}") from error
    for key in ("images", "categories"):
        if not isinstance(content, dict) or not content.get(key):
            raise ValueError(f'{json_file} is not a COCO-format file: it has no "{key}"')
    return content["categories"]
