"""Overrides from the command line, checked before they are applied."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence

from detectron2.config import LazyConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lors.errors import UserError


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """`LazyConfig.apply_overrides` for keys that exist in `cfg` or that the object they belong to accepts.

    What takes the place of a text is the text that was typed, whatever is in it; quotes around it, "null" and
    "${key}" are Hydra's.

    Raises:
        UserError: any other key, naming the nearest known one, a text without "=", a value that Hydra's
            grammar does not have, or one of another kind than the config's (a text for a number).
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            place = ", and options stand before them" if key.startswith("-") else ""
            raise UserError(f"override {override!r}: must be key=value{place}")
        if not _is_known(cfg, key):
            known = list(_keys(cfg))
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise UserError(f"override {key!r}: no such key in the config; the nearest is {nearest[0]!r}")
    for override in overrides:
        key, _, value = override.partition("=")
        before = OmegaConf.select(cfg, key, throw_on_missing=False)
        if isinstance(before, str) and not re.fullmatch(r"""null|'.*'|".*"|.*\$\{.*""", value, re.DOTALL):
            OmegaConf.update(cfg, key, value)
            continue
        if re.fullmatch(r"[\d.]+,[\d.,]+", value):  # Hydra's form of several values to try
            raise UserError(f"override {override!r}: a number has a point and no comma, and a list [ ]")
        try:
            cfg = LazyConfig.apply_overrides(cfg, [override])
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"override {override!r}: {str(error).splitlines()[0]}") from error
        kind, given = _kind(before), _kind(OmegaConf.select(cfg, key))
        if kind and given and given != kind:
            raise UserError(f"override {override!r}: must be a {kind}, as {before!r} is")
    return cfg


def _kind(value: object) -> str | None:
    kinds = {"truth value": bool, "number": (int, float), "text": str}
    return next((kind for kind, types in kinds.items() if isinstance(value, types)), None)


def _is_known(cfg: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if isinstance(node, ListConfig):
        return leaf.isdigit() and int(leaf) < len(node)
    if not isinstance(node, DictConfig):
        return False
    return leaf in node or ("_target_" in node and _accepts(node._target_, leaf))


def _accepts(target: object, name: str) -> bool:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False
    open_ended = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    named = {key for key, parameter in parameters.items() if parameter.kind not in open_ended}
    return name in named or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _keys(node: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    names = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for name in names:
        yield f"{prefix}{name}"
        child = node._get_node(name)
        if isinstance(child, (DictConfig, ListConfig)) and not child._is_interpolation():
            yield from _keys(child, f"{prefix}{name}.")
