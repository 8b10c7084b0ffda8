"""Classes are what their names say, whatever ids a file gives them."""

from __future__ import annotations

from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from lors.data.problems import Problem
from lors.errors import UserError


class Classes(NamedTuple):
    """Names in a model's order, and the category id that stands for each."""

    names: list[str]
    ids: list[int]


def classes_of(dataset: str) -> Classes:
    """Those of a dataset in Detectron2's catalogs, with its file's category ids or, without one, from 0."""
    if dataset not in DatasetCatalog.list():
        raise UserError(f"dataset {dataset!r} is not registered in Detectron2's DatasetCatalog")
    if MetadataCatalog.get(dataset).get("thing_classes") is None:
        # register_coco_instances({}) leaves the classes out until the data is loaded.
        DatasetCatalog.get(dataset)
    metadata = MetadataCatalog.get(dataset)
    names = list(metadata.thing_classes)
    to_index = metadata.get("thing_dataset_id_to_contiguous_id", {i: i for i in range(len(names))})
    return Classes(names, sorted(to_index, key=to_index.get))


def num_classes(dataset: str) -> int:
    """The number of classes of a dataset in Detectron2's catalogs."""
    return len(classes_of(dataset).names)


def match(dataset: dict, classes: Classes) -> list[Problem]:
    """Makes the categories of a checked dataset those of a model, by name, and so the annotations' ids."""
    ids = dict(zip(classes.names, classes.ids))
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    used = {names[annotation["category_id"]] for annotation in dataset.get("annotations", ())}
    unknown = [name for name in names.values() if name not in ids]
    alike = {_letters(name): name for name in ids}
    hints = [
        f"; {name!r} differs from {alike[_letters(name)]!r} in case or spaces only"
        for name in unknown
        if _letters(name) in alike
    ]
    problems = [
        Problem(
            kind,
            "file",
            f"{', '.join(map(repr, found))}; the model's classes are {', '.join(map(repr, ids))}"
            + "".join(hints),
        )
        for kind, found in (
            ("unknown_class", [name for name in unknown if name in used]),
            ("unused_class", [name for name in unknown if name not in used]),
        )
        if found
    ]
    if names != dict(zip(classes.ids, classes.names)):
        problems.append(
            Problem("other_ids", "file", f"now {', '.join(f'{n!r} is {i}' for n, i in ids.items())}")
        )
        for annotation in dataset.get("annotations", ()):
            annotation["category_id"] = ids.get(names[annotation["category_id"]])
        dataset["categories"] = [{"id": i, "name": name} for name, i in ids.items()]
    return problems


def _letters(name: str) -> str:
    return "".join(name.split()).casefold()
