"""Overrides from the command line, checked before they are applied."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence

from detectron2.config import LazyConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`LazyConfig.apply_overrides` for keys that exist in `cfg` or that the object they belong to accepts.

    Raises:
        ValueError: any other key, naming the nearest known one, a text without "=", a value that Hydra's
            grammar does not have, or one of another kind than the config's (a text for a number).
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r}: must be key=value")
        if not _is_known(cfg, key):
            known = list(_keys(cfg))
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise ValueError(f"override {key!r}: no such key in the config; the nearest is {nearest[0]!r}")
    for override in overrides:
        key = override.partition("=")[0]
        before = OmegaConf.select(cfg, key)
        try:
            cfg = LazyConfig.apply_overrides(cfg, [override])
        except HydraException as error:
            raise ValueError(f"override {override!r}: {str(error).splitlines()[0]}") from error
        kind, given = _kind(before), _kind(OmegaConf.select(cfg, key))
        if kind and given and given != kind:
            raise ValueError(f"override {override!r}: must be a {kind}, as {before!r} is")
    return cfg


def _kind(value: object) -> str | None:
    for kind, types in (("truth value", bool), ("number", (int, float)), ("text", str)):
        if isinstance(value, types):
            return kind
    return None


def _is_known(cfg: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if isinstance(node, ListConfig):
        return leaf.isdigit() and int(leaf) < len(node)
    if not isinstance(node, DictConfig):
        return False
    return leaf in node or ("_target_" in node and leaf in _accepted(node._target_))


def _accepted(target: object) -> set[str]:
    try:
        return set(inspect.signature(target).parameters) - {"self", "args", "kwargs"}
    except (TypeError, ValueError):
        return set()


def _keys(node: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    names = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for name in names:
        yield f"{prefix}{name}"
        child = node._get_node(name)
        if isinstance(child, (DictConfig, ListConfig)) and not child._is_interpolation():
            yield from _keys(child, f"{prefix}{name}.")
