"""Datasets by name, and those in COCO's JSON format, https://cocodataset.org/#format-data."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections import UserDict
from types import SimpleNamespace
from typing import Any, Callable

from pycocotools.coco import COCO

from ..structures import BoxMode

logger = logging.getLogger(__name__)

_COCO_CLASSES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
    "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,"
    "handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,"
    "surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,"
    "broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,"
    "mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,"
    "teddy bear,hair drier,toothbrush"
).split(",")
_COCO_IDS = [i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]


class _Catalog(UserDict):
    def list(self) -> list[str]:
        return [*self]

    def remove(self, name: str) -> None:
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Functions by dataset name, each returning the dataset as a list of dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add a dataset; the name must be new."""
        assert name not in self, f"there is a dataset {name!r} already"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Load a dataset."""
        if name not in self:
            raise KeyError(f"no dataset {name!r} is registered, only {', '.join(self)}")
        return self[name]()


class Metadata(SimpleNamespace):
    """What is known of a dataset; an attribute keeps the value it got first."""

    def __setattr__(self, key: str, val: Any) -> None:
        old = vars(self).get(key, val)
        assert old == val, f"{key} of dataset {self.name} is {old}, not {val}"
        super().__setattr__(key, val)

    def set(self, **kwargs: Any) -> Metadata:
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return vars(self).get(key, default)


class _MetadataCatalog(_Catalog):
    """Metadata by dataset name."""

    def get(self, name: str) -> Metadata:
        """The metadata of a dataset, empty when asked for the first time."""
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()


def read_coco(json_file: str) -> COCO:
    """pycocotools' COCO of a file, made without its prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(json_file)


def load_coco_json(json_file: str, image_root: str, dataset_name: str) -> list[dict[str, Any]]:
    """One dict per image: file_name, height, width, image_id and annotations; the classes become metadata."""
    coco = read_coco(json_file)
    category_ids = sorted(coco.getCatIds())
    id_map = {category_id: i for i, category_id in enumerate(category_ids)}
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[category["name"] for category in coco.loadCats(category_ids)],
        thing_dataset_id_to_contiguous_id=id_map,
    )
    dicts = []
    for image_id, image in sorted(coco.imgs.items()):
        record = {key: image[key] for key in ("height", "width")}
        record["file_name"] = os.path.join(image_root, image["file_name"])
        record["image_id"] = image_id
        record["annotations"] = []
        for annotation in coco.imgToAnns[image_id]:
            polygons = annotation.get("segmentation")
            # Objects whose polygons all lack corners are left out, boxes and all.
            if polygons and isinstance(polygons, list):
                if not any(len(p) % 2 == 0 and len(p) >= 6 for p in polygons):
                    continue
            kept = {key: annotation[key] for key in ("iscrowd", "bbox") if key in annotation}
            kept["bbox_mode"] = BoxMode.XYWH_ABS
            kept["category_id"] = id_map[annotation["category_id"]]
            record["annotations"].append(kept)
        dicts.append(record)
    logger.info(f"Loaded {len(dicts)} images in COCO format from {json_file}")
    return dicts


def register_coco_instances(name: str, metadata: dict[str, Any], json_file: str, image_root: str) -> None:
    """Register a dataset in COCO's format under `name`, with further metadata."""
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    paths = {"json_file": json_file, "image_root": image_root}
    MetadataCatalog.get(name).set(evaluator_type="coco", **paths, **metadata)


def _register_coco() -> None:
    root = os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), "coco")
    for split in ("train", "val"):
        json_file = f"{root}/annotations/instances_{split}2017.json"
        ids = {category_id: i for i, category_id in enumerate(_COCO_IDS)}
        metadata = {"thing_classes": _COCO_CLASSES, "thing_dataset_id_to_contiguous_id": ids}
        register_coco_instances(f"coco_2017_{split}", metadata, json_file, f"{root}/{split}2017")


_register_coco()
