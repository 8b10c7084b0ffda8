"""The training data as one stream in which a batch follows from the seed and its number alone."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from lors.data.images import BadImage
from lors.errors import UserError

Record = dict[str, Any]
Mapper = Callable[[Record], "Record | None"]


class TrainLoader:
    """Batches of mapped dicts without end.

    Which images a batch has and how they are augmented does not depend on workers, processes or where
    training began. So a resumed training goes on with the batches that it would have had, and any number of
    processes share the batches of one.

    Every epoch is another order of all images. Wide images make batches of their own: less padding.

    Args:
        dataset: Detectron2's dataset dicts, with width and height.
        mapper: from such a dict to one with tensors; None for an image to skip, in whose place another is
            drawn.
        total_batch_size: over all processes.
        num_workers, options: of torch's DataLoader, such as pin_memory and prefetch_factor.

    Attributes:
        seed: of the stream, which its user or a checkpoint sets.
        next_batch: the number of the batch that iteration begins with.

    Raises:
        UserError: the batch size is no multiple of the number of processes.
        TypeError, ValueError: an option that the DataLoader does not take.
        BadImage: in iteration, when no image at all can be read.
    """

    def __init__(
        self,
        dataset: Sequence[Record],
        *,
        mapper: Mapper,
        total_batch_size: int,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        self.process, self.processes = comm.get_rank(), comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % self.processes:
            raise UserError(
                f"dataloader.train.total_batch_size={total_batch_size}: must be at least 1 and a "
                f"multiple of the {self.processes} process(es)"
            )
        self._mapped = _Mapped(DatasetFromList(dataset, copy=False), mapper)
        self._is_wide = [record["width"] > record["height"] for record in dataset]
        self._batch_size, self._options = total_batch_size, {"num_workers": num_workers, **options}
        self.seed, self.next_batch = 0, 0
        self._loader()  # A wrong option is refused here, and not in the first iteration.

    def __iter__(self) -> Iterator[list[Record]]:
        return iter(self._loader())

    def _loader(self) -> DataLoader:
        return DataLoader(
            self._mapped,
            batch_sampler=itertools.islice(self._batches(), self.next_batch, None),
            collate_fn=list,
            worker_init_fn=_leave_signals_to_the_trainer,
            generator=torch.Generator(),  # the global one has the model's random numbers
            **self._options,
        )

    def _batches(self) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        """For each image of this process's share: its index, and the seed of its augmentation."""
        groups: tuple[list, list] = [], []
        for position, index in enumerate(self._order()):
            group = groups[self._is_wide[index]]
            group.append((index, (self.seed, position)))
            if len(group) == self._batch_size:
                yield group[self.process :: self.processes]
                group.clear()

    def _order(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(len(self._is_wide), generator=generator).tolist()

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seed = state["seed"]


class _Mapped(Dataset):
    def __init__(self, dataset: Sequence[Record], mapper: Mapper) -> None:
        self._dataset, self._mapper = dataset, mapper

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, item: tuple[int, tuple[int, int]]) -> Record:
        index, seed = item
        with random_numbers(*seed):
            record = self._mapper(self._dataset[index])
            if record is not None:
                return record
            for index in random.sample(range(len(self)), len(self)):
                record = self._mapper(self._dataset[index])
                if record is not None:
                    return record
        raise BadImage(f"none of the {len(self)} images can be read")


@contextmanager
def random_numbers(*seed: int) -> Iterator[None]:
    """Random numbers of Python, NumPy and torch (CPU) follow from the seed; afterwards all is as before."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    number = mix(*seed)
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def mix(*numbers: int) -> int:
    """One 32-bit seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C goes to a whole group of processes; the trainer still needs its workers then."""
    os.setsid()
