"""Weights from and to elsewhere."""

from lors.checkpoints.checkpointer import Checkpointer, read_detector
from lors.checkpoints.convert import convert
from lors.checkpoints.detectors import load_config, load_detector
from lors.checkpoints.released import from_released, to_released
from lors.checkpoints.weights import read, weights_of, write
