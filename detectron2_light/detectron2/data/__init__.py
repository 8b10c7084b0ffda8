"""Datasets, and their loading."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, Callable, Optional

from torch.utils.data import DataLoader

from .datasets import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)
Record = dict[str, Any]
Mapper = Callable[[Record], Optional[Record]]


def get_detection_dataset_dicts(names: str | Sequence[str], filter_empty: bool = True) -> list[Record]:
    """The dicts of datasets with the same classes; without the images that show crowds or nothing."""
    names = [names] if isinstance(names, str) else names
    dicts = [record for name in names for record in DatasetCatalog.get(name)]
    classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    if any(theirs != classes[0] for theirs in classes):
        raise ValueError("Datasets have different metadata 'thing_classes'!")
    assert dicts, f"dataset {names!r} is empty"
    if filter_empty:
        total = len(dicts)
        dicts = [d for d in dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
        logger.info(f"Left out {total - len(dicts)} images without objects, kept {len(dicts)}")
    assert dicts, f"No valid data found in {names}"
    return dicts


class DatasetFromList(list):
    """A list as a dataset; the full Detectron2 also packs it, so that its workers share the memory."""

    def __init__(self, lst: list[Record], *, copy: bool) -> None:
        assert not copy, "the items are not copied"
        super().__init__(lst)


def _map_all(mapper: Mapper, batch: list[Record]) -> list[Record]:
    return [mapper(item) for item in batch]


def build_detection_test_loader(
    dataset: list[Record], *, mapper: Mapper, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Lists of up to `batch_size` mapped dicts, each item of the dataset once."""
    collate = functools.partial(_map_all, mapper)
    return DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=collate)
