"""A config with its overrides, and its detector with the weights of a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from detectron2.config import LazyConfig, instantiate
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig
from torch import nn

from lors.checkpoints.about import adopt
from lors.checkpoints.checkpointer import Checkpointer, named_downloads, read_detector
from lors.errors import UserError
from lors.training.errors import config_errors
from lors.training.overrides import apply_overrides


def load_config(config_file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A LazyConfig file, which may import what lies in the working folder, with overrides.

    Raises:
        UserError: there is no such file, or an override is not known.
    """
    if not os.path.isfile(config_file):
        raise UserError(f"--config-file {config_file!r}: there is no such file")
    if not config_file.endswith(".py"):
        raise UserError(f"--config-file {config_file!r}: must be a .py file, as those of configs/")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return apply_overrides(LazyConfig.load(config_file), list(overrides))


def load_detector(
    config_file: str, weights: str, overrides: Sequence[str] = ()
) -> tuple[DictConfig, nn.Module]:
    """A config and its detector with the weights of a file, on `train.device`, for inference.

    What the file says of its classes and images is taken into the config, and is its `about`; overrides have
    the last word.

    Raises:
        UserError: as `Checkpointer` does; an override is not known, or the device is not there.
    """
    if not weights:
        raise UserError("no file of weights: its name is empty")
    with named_downloads(weights):
        checkpoint = read_detector(PathManager.get_local_path(weights))
    with config_errors():
        cfg = load_config(config_file)
        adopt(cfg, checkpoint["about"])
        cfg = apply_overrides(cfg, overrides)
        cfg.about = {key: value for key, value in checkpoint["about"].items()}
        model = instantiate(cfg.model).eval()
    Checkpointer(model)._load_model(checkpoint)
    return cfg, to_device(model, cfg.train.device)


def to_device(model: nn.Module, device: str) -> nn.Module:
    try:
        return model.to(device)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"train.device={device}: {str(error).splitlines()[0]}") from error
