"""Random seeds."""

from __future__ import annotations

import logging
import os
import random

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seed torch, numpy and random; without a seed draw one and log it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little") % 2**31
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
