"""Python configs whose objects are built later."""

from __future__ import annotations

import builtins
import logging
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Callable

import yaml
from fvcore.common.config import CfgNode  # noqa: F401
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf

logger = logging.getLogger(__name__)


def configurable(init_func: Callable[..., None]) -> Callable[..., None]:
    """`init_func` itself: there are no yacs configs here to take its arguments from."""
    return init_func


def _as_config(value: Any) -> Any:
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


class LazyCall:
    """`LazyCall(f)(a=1)` is a config that `instantiate` turns into `f(a=1)`."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        return _as_config({**kwargs, "_target_": self._target})


def instantiate(cfg: Any) -> Any:
    """Call every `_target_` in cfg, innermost first; what has no `_target_` comes back as it is."""
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(x) for x in cfg], flags={"allow_objects": True})
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg
    arguments = {key: instantiate(value) for key, value in cfg.items()}
    target = arguments.pop("_target_")
    try:
        return target(**arguments)
    except TypeError:
        logger.error(f"Cannot build {target} from its config")
        raise


def _run_config_file(filename: str) -> dict[str, Any]:
    """Run a config file and return its global names, dicts made into configs.

    The file gets an `__import__` of its own that runs the files it imports relatively anew each time, so that
    what it changes in them is seen by nobody else.
    """

    def import_config(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0):
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        folder = filename
        for _ in range(level):
            folder = os.path.dirname(folder)
        path = os.path.join(folder, *name.split(".")) + ".py"
        if not os.path.isfile(path):
            raise ImportError(f"Cannot import {name} relative to {filename}: no file {path}")
        return SimpleNamespace(**_run_config_file(path))

    with open(filename, encoding="utf-8") as f:
        code = compile(f.read(), filename, "exec")
    own_builtins = {**vars(builtins), "__import__": import_config}
    # Functions that the file defines take their __module__ from __name__.
    namespace = {"__name__": "config_file", "__file__": filename, "__builtins__": own_builtins}
    exec(code, namespace)
    return {name: _as_config(value) for name, value in namespace.items() if name[:2] != "__"}


def _name_objects(value: Any) -> Any:
    """Replace functions and classes by their dotted names."""
    if isinstance(value, list):
        return [_name_objects(v) for v in value]
    if isinstance(value, dict):
        return {k: _name_objects(v) for k, v in value.items()}
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value


class LazyConfig:
    """Functions on lazy configs."""

    @staticmethod
    def load(filename: str) -> DictConfig:
        """Load a .py config: its dicts whose names have no leading underscore."""
        names = _run_config_file(filename).items()
        return _as_config({k: v for k, v in names if isinstance(v, DictConfig) and k[0] != "_"})

    @staticmethod
    def save(cfg: DictConfig, filename: str) -> None:
        """Write cfg as YAML, functions and classes by their dotted names."""
        with open(filename, "w", encoding="utf-8") as f:
            plain = _name_objects(OmegaConf.to_container(cfg))
            yaml.dump(plain, f, default_flow_style=None, allow_unicode=True, width=9999)

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
        """Apply `key=value` overrides in Hydra's grammar to cfg, in place."""
        for override in OverridesParser.create().parse_overrides(overrides):
            OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
        return cfg
