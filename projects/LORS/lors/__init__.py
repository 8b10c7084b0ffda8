"""LORS for Detectron2: query-based detectors whose decoder stages share most of their weights."""

import importlib
from typing import Any

_HOMES = {
    "AdaMixer": "lors.detector",
    "add_lors_config": "lors.config",
    "export": "lors.exporting",
    "factorize": "lors.checkpoints",
    "merge": "lors.checkpoints",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # On first use, so that `lors.stack` can be had without Detectron2.
    if name not in _HOMES:
        raise AttributeError(f"module 'lors' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
