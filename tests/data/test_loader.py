"""A batch follows from the seed and its number, whatever the workers, the processes and the beginning."""

import itertools
import random

import numpy as np
import pytest
import torch

from lors.data import TrainLoader
from lors.data.loader import mix, random_numbers

# Every third is wide.
RECORDS = [{"image_id": i, "width": 8 + 4 * (i % 3 == 0), "height": 10} for i in range(13)]


def draw(record):
    """Maps to random numbers of all three kinds, or to None for image 5."""
    if record["image_id"] == 5:
        return None
    numbers = random.random(), np.random.rand(), torch.rand(()).item()
    return {**record, "numbers": numbers}


def batches(count, start=0, workers=0, seed=7, size=4, process=0, processes=1):
    loader = TrainLoader(RECORDS, mapper=draw, total_batch_size=size, num_workers=workers)
    loader.seed, loader.next_batch = seed, start
    loader.process, loader.processes = process, processes
    return list(itertools.islice(iter(loader), count))


def test_each_epoch_has_every_image_once():
    ids = [r["image_id"] for batch in batches(13, size=1) for r in batch]
    # The one that cannot be read gave way to another.
    assert len(ids) == 13 and set(ids) == set(range(13)) - {5}
    later = [r["image_id"] for batch in batches(13, start=13, size=1) for r in batch]
    assert set(later) == set(ids) and later != ids


def test_the_order_follows_from_the_seed():
    first, same, other = (
        [r["image_id"] for batch in batches(20, seed=seed) for r in batch] for seed in (7, 7, 8)
    )
    assert first == same
    # What stands in for image 5 differs in any case.
    assert sum(a == b for a, b in zip(first, other)) < len(first) / 2


def test_a_batch_is_wide_or_not():
    for batch in batches(20):
        wide = {r["width"] > r["height"] for r in batch if r["image_id"] != 5}
        assert len(batch) == 4
        assert len(wide) == 1 or len(wide) == 2 and 5 not in {r["image_id"] for r in batch}
    whole = [b for b in batches(20) if len({r["width"] > r["height"] for r in b}) == 1]
    assert len(whole) >= 15  # the rest holds what stands in for image 5


def test_the_models_random_numbers_are_its_own():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(2)
    assert torch.equal(torch.rand(3), expected)


def test_an_option_that_the_dataloader_lacks_is_refused_at_once():
    TrainLoader(RECORDS, mapper=draw, total_batch_size=4, pin_memory=False, prefetch_factor=2, num_workers=1)
    with pytest.raises(TypeError, match="num_worker"):
        TrainLoader(RECORDS, mapper=draw, total_batch_size=4, num_worker=1)
    for options in (dict(prefetch_factor=2), dict(num_workers=-1), dict(batch_size=4), dict(shuffle=True)):
        with pytest.raises(ValueError):
            TrainLoader(RECORDS, mapper=draw, total_batch_size=4, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_beginning_and_the_workers_change_nothing(workers):
    stream = batches(20)
    assert batches(12, start=8, workers=workers) == stream[8:]
    assert batches(20, workers=workers, seed=8) != stream


def test_processes_share_the_batches():
    stream = batches(10)
    for processes in (2, 4):
        shares = [batches(10, process=i, processes=processes) for i in range(processes)]
        for whole, *parts in zip(stream, *shares):
            assert all(len(part) == 4 // processes for part in parts)
            key = str
            assert sorted(map(key, itertools.chain(*parts))) == sorted(map(key, whole))


def test_all_augmentations_differ():
    numbers = [r["numbers"] for batch in batches(30) for r in batch]
    for kind in zip(*numbers):
        assert len(set(kind)) == len(kind)


def test_mapping_leaves_the_random_numbers_of_the_model_alone():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with random_numbers(3, 4):
        torch.rand(9), np.random.rand(9), random.random()
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected


def test_seeds_of_neighbours_are_far_apart():
    seeds = {mix(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000 and max(seeds) < 2**32


def test_the_seed_is_the_state():
    loader = TrainLoader(RECORDS, mapper=draw, total_batch_size=4)
    loader.load_state_dict({"seed": 7})
    assert loader.state_dict() == {"seed": 7}
    assert list(itertools.islice(iter(loader), 5)) == batches(5)


def test_a_batch_must_be_shared_evenly(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="total_batch_size=4: .* multiple of the 3 process"):
        TrainLoader(RECORDS, mapper=draw, total_batch_size=4)
    with pytest.raises(ValueError, match="total_batch_size=0"):
        TrainLoader(RECORDS, mapper=draw, total_batch_size=0)
