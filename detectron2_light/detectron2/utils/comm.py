"""How many processes there are and which this is: one, and it."""

from __future__ import annotations

from typing import Any

import numpy as np


def get_world_size() -> int:
    return 1


def get_rank() -> int:
    return 0


def get_local_rank() -> int:
    return 0


def is_main_process() -> bool:
    return True


def gather(data: Any) -> list[Any]:
    """The data of all processes."""
    return [data]


def all_gather(data: Any) -> list[Any]:
    """The data of all processes, in each of them."""
    return [data]


def shared_random_seed() -> int:
    """A random number that all processes have, 0 to 2^31 - 1."""
    return int(np.random.randint(2**31))
