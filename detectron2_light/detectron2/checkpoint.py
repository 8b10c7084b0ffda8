"""Reading and writing weights and the state of training."""

from typing import Any

from fvcore.common.checkpoint import Checkpointer
from torch import nn

from .utils.file_io import PathManager


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer, which here takes detectron2:// addresses too."""

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.path_manager = PathManager
