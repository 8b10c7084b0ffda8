"""Reading and writing weights and the state of training."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from .utils.file_io import PathManager

logger = logging.getLogger(__name__)
_ARRAY_PARTS = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and built-in containers; anything else could run code and is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) in _ARRAY_PARTS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")


def _match_by_suffix(model: nn.Module, weights: dict[str, Any]) -> dict[str, Any]:
    """Rename weights for the model: each of its keys takes its own longest suffix there."""
    matched = {}
    for key in model.state_dict():
        suffix = key
        while suffix and suffix not in weights:
            suffix = suffix.partition(".")[2]
        if suffix:
            matched[key] = weights[suffix]
    logger.info(f"Found {len(matched)} weights of the model in a file of {len(weights)}")
    return matched


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer that also reads the .pkl files of Detectron2's model zoo."""

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.path_manager = PathManager

    def _load_file(self, filename: str) -> dict[str, Any]:
        with PathManager.open(filename, "rb") as f:
            if not filename.endswith(".pkl"):
                content = torch.load(f, map_location="cpu", weights_only=True)
                return content if "model" in content else {"model": content}
            content = _ArrayUnpickler(f, encoding="latin1").load()
        if "model" not in content or "__author__" not in content:
            raise ValueError(f"{filename} is not in the format of Detectron2's model zoo")
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.get("matching_heuristics", False):
            checkpoint["model"] = _match_by_suffix(self.model, checkpoint["model"])
        return super()._load_model(checkpoint)
