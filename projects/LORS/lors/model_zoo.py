"""Configs and trained detectors by name, as in Detectron2's `model_zoo`.

A name is that of a file in configs/, such as "lors_r50_1x" or "digits/lors_digits.py". Weights lie where the
environment variable LORS_MODEL_ZOO says, a folder or an http(s) address, as tools/publish.py puts them there.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from omegaconf import DictConfig
from torch import nn

from lors.checkpoints import load_config, load_detector
from lors.errors import UserError
from lors.training.errors import config_errors
from lors.training.setup import build_model

INDEX = "model_zoo.json"
_CONFIGS = Path(__file__).parent / "configs"


def get_config_file(name: str) -> str:
    """The path of a config.

    Raises:
        UserError: there is none of that name.
    """
    name = name.removesuffix(".py")
    files = {path.relative_to(_CONFIGS).with_suffix("").as_posix(): path for path in _CONFIGS.rglob("*.py")}
    known = sorted(file for file in files if not file.startswith(("common/", "studies/")))
    if name not in known:
        near = difflib.get_close_matches(name, known)
        there = f"near are {', '.join(near)}" if near else f"there are {', '.join(known)}"
        raise UserError(f"model zoo: no config {name!r}; {there}")
    return str(files[name])


def get_checkpoint_url(name: str) -> str:
    """The path or address of a config's trained weights.

    Raises:
        UserError: no such config, or no weights of it are published.
        OSError: LORS_MODEL_ZOO cannot be reached.
    """
    name = Path(get_config_file(name)).relative_to(_CONFIGS).with_suffix("").as_posix()
    zoo = os.environ.get("LORS_MODEL_ZOO", "").rstrip("/")
    if not zoo:
        raise UserError(
            f"model zoo: no weights of {name}: LORS_MODEL_ZOO is not set to a folder or address of "
            "published weights; this project has put none on the web"
        )
    index = read_index(zoo)
    if name not in index:
        there = ", ".join(sorted(index)) or "none"
        raise UserError(f"model zoo: no weights of {name} are published in {zoo}; there are {there}")
    return f"{zoo}/{name}/{index[name]['file']}"


def read_index(zoo: str) -> dict[str, dict[str, Any]]:
    """What is published in a folder or at an address: config -> "file", "AP" and how it was trained."""
    path = f"{zoo}/{INDEX}"
    try:
        # Detectron2's PathManager would keep an old copy of it.
        if "://" in zoo:
            with urlopen(path, timeout=60) as answer:
                return json.load(answer)
        return json.loads(Path(path).read_text())
    except URLError as error:
        raise OSError(f"{path} cannot be downloaded: {error.reason}") from error
    except ValueError as error:
        raise UserError(f"{path}: not the JSON of a model zoo ({error})") from error


def get_config(name: str, trained: bool = False) -> DictConfig:
    """A config; with `trained`, its train.init_checkpoint is that of the trained weights."""
    with config_errors():
        cfg = load_config(get_config_file(name))
    if trained:
        cfg.train.init_checkpoint = get_checkpoint_url(name)
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """A detector in eval mode, on `device` or else a GPU if there is one; random weights unless `trained`."""
    overrides = [f"train.device={device}"] if device else []
    if trained:
        return load_detector(get_config_file(name), get_checkpoint_url(name), overrides)[1]
    with config_errors():
        return build_model(load_config(get_config_file(name), overrides)).eval()
