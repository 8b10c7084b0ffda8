"""Datasets, and their loading."""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import random
from collections.abc import Iterator
from typing import Any, Callable, Optional

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..utils.env import seed_all_rng
from .datasets import DatasetCatalog, Metadata, MetadataCatalog

logger = logging.getLogger(__name__)
Record = dict[str, Any]
Mapper = Callable[[Record], Optional[Record]]


def get_detection_dataset_dicts(names: str, filter_empty: bool = True) -> list[Record]:
    """The dicts of the dataset of that name; without the images that show crowds or nothing."""
    dicts = DatasetCatalog.get(names)
    assert dicts, f"dataset {names!r} is empty"
    if filter_empty:
        total = len(dicts)
        dicts = [d for d in dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
        logger.info(f"Left out {total - len(dicts)} images without objects, kept {len(dicts)}")
    assert dicts, f"no image of {names} has annotations"
    return dicts


class _EndlessDataset(IterableDataset):
    """Items in random order, again and again; of W workers each maps every W-th run of `chunk` items.

    In place of an item that maps to None stands another, drawn from those that have not done so.
    """

    def __init__(self, dataset: list[Record], mapper: Mapper, chunk: int) -> None:
        self._dataset = dataset
        self._mapper = mapper
        self._chunk = chunk
        # Drawn here, so that all workers have the same.
        self._seed = int(np.random.randint(2**31))
        self._fallback = random.Random(42)
        self._candidates = set(range(len(dataset)))

    def _map(self, idx: int) -> Record:
        while (item := self._mapper(self._dataset[idx])) is None:
            self._candidates.discard(idx)
            idx = self._fallback.sample(list(self._candidates), k=1)[0]
        self._candidates.add(idx)
        return item

    def __iter__(self) -> Iterator[Record]:
        worker = get_worker_info()
        count, own = (1, 0) if worker is None else (worker.num_workers, worker.id)
        generator = torch.Generator().manual_seed(self._seed)
        number = len(self._dataset)
        epochs = (torch.randperm(number, generator=generator).tolist() for _ in itertools.count())
        for position, idx in enumerate(itertools.chain.from_iterable(epochs)):
            if position // self._chunk % count == own:
                yield self._map(idx)


def _group_by_aspect_ratio(items: DataLoader, batch_size: int) -> Iterator[list[Record]]:
    """Batches of images that are all wider than high, or all not: less padding."""
    groups: dict[bool, list[Record]] = {True: [], False: []}
    for item in items:
        is_wide = item["width"] > item["height"]
        groups[is_wide].append(item)
        if len(groups[is_wide]) == batch_size:
            batch, groups[is_wide] = groups[is_wide], []
            yield batch


def _seed_worker(worker_id: int) -> None:
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def build_detection_train_loader(
    dataset: list[Record], *, mapper: Mapper, total_batch_size: int, num_workers: int = 0
) -> Iterator[list[Record]]:
    """Lists of `total_batch_size` mapped dicts, without end."""
    items = _EndlessDataset(dataset, mapper, total_batch_size)
    first = operator.itemgetter(0)
    loader = DataLoader(items, num_workers=num_workers, worker_init_fn=_seed_worker, collate_fn=first)
    return _group_by_aspect_ratio(loader, total_batch_size)


def _map_all(mapper: Mapper, batch: list[Record]) -> list[Record]:
    return [mapper(item) for item in batch]


def build_detection_test_loader(
    dataset: list[Record], *, mapper: Mapper, batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Lists of up to `batch_size` mapped dicts, each item of the dataset once."""
    collate = functools.partial(_map_all, mapper)
    return DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=collate)
