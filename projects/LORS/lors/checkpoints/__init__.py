"""Weights from and to elsewhere."""

from lors.checkpoints.checkpointer import Checkpointer
from lors.checkpoints.released import from_released

__all__ = ["Checkpointer", "from_released"]
