"""LORS for Detectron2: layers that share most of their weights, and the detector it was proved on."""

import importlib
from typing import Any

_HOMES = {
    "AdaMixer": "lors.adamixer",
    "Bank": "lors.sharing",
    "GeneratedLowRank": "lors.sharing",
    "LowRank": "lors.sharing",
    "add_lors_config": "lors.yacs",
    "factorize": "lors.sharing",
    "merge": "lors.sharing",
    "share": "lors.sharing",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # On first use, so that the method can be had without Detectron2.
    if name not in _HOMES:
        raise AttributeError(f"module 'lors' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
