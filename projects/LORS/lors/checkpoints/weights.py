"""Files of weights, read without running code that is in them, and written whole or not at all."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lors.training.files import replacing

# All that a pickled numpy array is made of.
_ARRAYS = {
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class Unreadable(ValueError):
    """A file that is damaged, of another format, or refused."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"refused: it holds code, {module}.{name}")
        return super().find_class(module, name)


def read(path: str) -> dict[str, Any]:
    """A checkpoint: `.safetensors`, `.pkl` as in Detectron2's model zoo, else whatever torch.save wrote.

    Raises:
        Unreadable: the file is not of that format, is cut off, or holds code.
        ValueError: it holds something else than a checkpoint.
    """
    path = str(path)
    with open(path, "rb"):  # whatever is wrong from here on is the content
        pass
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            content = load_file(path)
        elif path.endswith(".pkl"):
            with open(path, "rb") as file:
                content = _ArraysOnly(file, encoding="latin1").load()
        else:
            with torch.serialization.safe_globals(_numpy_globals()):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        raise Unreadable(f"{path}: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a checkpoint, it holds a {type(content).__name__}")
    return content


def _numpy_globals() -> list[Any]:
    # Checkpoints of training keep a number or two as numpy's.
    try:
        from numpy._core import multiarray
    except ImportError:  # NumPy 1
        from numpy.core import multiarray
    kinds = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    return [multiarray.scalar, multiarray._reconstruct, np.ndarray, np.dtype, *kinds]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if code := re.search(r"(?:GLOBAL|global) [`']?([\w.]+)", text):
        return f"refused: it holds code, {code[1]}"
    if text.startswith("refused"):
        return text
    text = re.split(r"(?<=\w)\. ", text)[0]
    return f"cannot be read, damaged or of another format ({type(error).__name__} {text[:150]})"


def weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in a checkpoint, wherever programs put them, without the "module." of parallel training.

    Raises:
        ValueError: there are none.
    """
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {
        name[7:] if name.startswith("module.") else name: torch.as_tensor(value)
        for name, value in content.items()
        if isinstance(value, (Tensor, np.ndarray, np.generic))
    }
    if not tensors:
        raise ValueError(f"no tensors found, only {', '.join(map(str, list(content)[:5])) or 'nothing'}")
    return tensors


def write(path: str, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whose weights are under "model" or "state_dict", by the path's extension.

    Raises:
        ValueError: the extension is neither .pth nor .safetensors.
    """
    if path.endswith(".safetensors"):
        from safetensors.torch import save_file

        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in weights_of(content).items()}
        with replacing(path) as scratch:
            save_file(tensors, scratch)
    elif path.endswith(".pth"):
        with replacing(path) as scratch:
            torch.save(dict(content), scratch)
    else:
        raise ValueError(f"{path}: a checkpoint ends in .pth or .safetensors")
