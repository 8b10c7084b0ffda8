"""Detectron2's checkpointer, which here knows more kinds of files and refuses what does not fit."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.error import URLError

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig
from torch import nn

from lors.checkpoints.convert import DETECTOR, convert
from lors.checkpoints.weights import Unreadable, read, weights_of, write
from lors.training.errors import config_errors
from lors.training.files import replacing
from lors.training.overrides import apply_overrides

logger = logging.getLogger(__name__)

# The norms of Swin's outputs are this project's, and an index or a counter is no weight.
_OPTIONAL = re.compile(r"backbone\.norms\..+|.+\.relative_position_index|.+\.num_batches_tracked")


class Checkpointer(DetectionCheckpointer):
    """Loads a whole detector or, where `backbone_alone` allows it, a file with nothing but the backbone.

    The authors' AdaMixer and LORS and the backbones of several programs are converted on the way. No code in
    a file is run. What is saved is whole or not there, whenever the program is killed.

    Raises, when loading:
        ValueError: a file that cannot be read, tensors of other shapes than the model's, tensors that the
            file lacks or the model.
        OSError: a file that is not there or cannot be downloaded.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        backbone_alone: bool = False,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.backbone_alone = backbone_alone

    def save(self, name: str, **kwargs: Any) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        write(path, {"model": self.model.state_dict(), **states, **kwargs})
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with replacing(os.path.join(self.save_dir, "last_checkpoint")) as scratch:
            scratch.write_text(last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; a last checkpoint that is damaged or missing gives way to the one before it."""
        if not resume or not self.has_checkpoint():
            return self.load(path, checkpointables=[])
        for saved in self._saved():
            try:
                if not os.path.isfile(saved):
                    raise FileNotFoundError(f"{saved}: not found")
                return self.load(saved)
            except (Unreadable, FileNotFoundError) as error:
                logger.warning("%s; the checkpoint before it is taken", error)
                self._parsed_url_during_load = None  # Detectron2 forgets it only where loading succeeds
        raise ValueError(f"{self.save_dir}: no checkpoint can be read; without --resume training starts anew")

    def has_checkpoint(self) -> bool:
        return bool(self._saved())

    def _saved(self) -> list[str]:
        """Checkpoints of training: the one tagged as the last, then by age."""
        if not os.path.isdir(self.save_dir):
            return []
        names = [name for name in os.listdir(self.save_dir) if re.fullmatch(r"model_(\d+|final)\.pth", name)]
        paths = [os.path.join(self.save_dir, name) for name in names]
        paths.sort(key=os.path.getmtime, reverse=True)
        last = self.get_checkpoint_file()
        return [last, *(path for path in paths if path != last)] if last else paths

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super().load(path, *args, **kwargs)
        except URLError as error:  # which does not say of what
            raise OSError(f"{path} cannot be downloaded: {error.reason}") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read(filename)
        try:
            kind, weights, unused = convert(weights_of(content))
        except ValueError as error:
            raise ValueError(f"{filename}: {error}") from error
        if kind == DETECTOR:
            return {**content, "model": weights}
        logger.info("%s: %s; not used: %s", filename, kind, ", ".join(unused) or "nothing")
        return {"model": weights}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if any(".bank." in name for name in checkpoint["model"]) and not any(
            ".bank." in name for name in self.model.state_dict()
        ):
            raise ValueError(
                "the layers of the checkpoint share weights and the model's do not: take the config it was "
                "trained with, or merge it (tools/merge.py)"
            )
        incompatible = super()._load_model(checkpoint)
        if incompatible.incorrect_shapes:
            shown = [f"{n}: file {f}, model {m}" for n, f, m in incompatible.incorrect_shapes]
            raise ValueError(f"the checkpoint does not fit the model: {_first(shown)}")
        missing = {name for name in incompatible.missing_keys if not _OPTIONAL.fullmatch(name)}
        rest = {name for name in self.model.state_dict() if not name.startswith("backbone.")}
        if missing and not (self.backbone_alone and missing == rest):
            raise ValueError(f"the checkpoint lacks tensors of the model: {_first(sorted(missing))}")
        unknown = [name for name in incompatible.unexpected_keys if not _OPTIONAL.fullmatch(name)]
        if unknown:
            raise ValueError(f"the model lacks tensors of the checkpoint: {_first(unknown)}")
        return incompatible


def _first(items: list[str], number: int = 4) -> str:
    more = f" and {len(items) - number} more" if len(items) > number else ""
    return "; ".join(items[:number]) + more


def load_detector(
    config_file: str, weights: str, overrides: Sequence[str] = ()
) -> tuple[DictConfig, nn.Module]:
    """A config and its detector with the weights of a file, on `train.device`, for inference.

    Raises:
        ValueError: as `Checkpointer` does; an override is not known, or the device is not there.
    """
    with config_errors():
        cfg = apply_overrides(LazyConfig.load(config_file), list(overrides))
        if not weights:
            raise ValueError("no file of weights: its name is empty")
        model = instantiate(cfg.model).eval()
    Checkpointer(model).load(weights)
    try:
        return cfg, model.to(cfg.train.device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"train.device={cfg.train.device}: {str(error).splitlines()[0]}") from error
