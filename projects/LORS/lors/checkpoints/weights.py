"""Files of weights, read without running code that is in them, and written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lors.errors import UserError
from lors.training.files import replacing

logger = logging.getLogger(__name__)

# All that a pickled numpy array is made of.
_ARRAYS = {
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
    ),
    "numpy.ndarray",
    "numpy.dtype",
    "collections.OrderedDict",
    "_codecs.encode",
}


class Unreadable(UserError):
    """A file that is damaged, of another format, or refused."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ARRAYS:
            raise pickle.UnpicklingError(f"refused: it holds code, {module}.{name}")
        return super().find_class(module, name)


def read(path: str) -> dict[str, Any]:
    """A checkpoint: `.safetensors`, `.pkl` as in Detectron2's model zoo, else whatever torch.save wrote.

    Raises:
        Unreadable: the file is not of that format, is cut off, or holds code.
        UserError: it holds something else than a checkpoint.
    """
    path = str(path)
    with open(path, "rb") as file:  # whatever is wrong from here on is the content
        begins = file.read(40)
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                content = {name: file.get_tensor(name) for name in file.keys()}
                if about := (file.metadata() or {}).get("about"):
                    content = {"model": content, "about": json.loads(about)}
        elif suffix == ".pkl":
            with open(path, "rb") as file:
                content = _ArraysOnly(file, encoding="latin1").load()
        else:
            with torch.serialization.safe_globals(_numpy_globals()):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        raise Unreadable(f"{path}: {_reason(error, begins)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint, it holds a {type(content).__name__}")
    return content


def _numpy_globals() -> list[Any]:
    # Checkpoints of training keep a number or two as numpy's.
    try:
        from numpy._core import multiarray
    except ImportError:  # NumPy 1
        from numpy.core import multiarray
    kinds = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    return [multiarray.scalar, multiarray._reconstruct, np.ndarray, np.dtype, *kinds]


def _reason(error: Exception, begins: bytes) -> str:
    text = " ".join(str(error).split())
    if code := re.search(r"(?:GLOBAL|global) [`']?([\w.]+)", text):
        return f"refused: it holds code, {code[1]}"
    if text.startswith("refused"):
        return text
    if begins.startswith(b"PK"):  # the zip file that torch.save writes
        return "cut off, damaged or of another extension than torch.save's"
    return f"no checkpoint, or damaged: it begins with {begins!r}" if begins else "it is empty"


# What parallel training, torch.compile and wrappers put before or into the names of a model's tensors.
_WRAPPERS = re.compile(r"^(ema_model\.|ema\.|ema_|module\.|model\.|_orig_mod\.)+|_orig_mod\.")


def weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in a checkpoint, wherever programs put them, by their names without wrappers'.

    Of timm's training checkpoints these are the averages, as timm itself takes them. Weights called "ema..."
    beside others are left out: mmdetection saves averages under the plain names.

    Raises:
        UserError: there are none.
    """
    for key in ("state_dict_ema", "model", "state_dict", "model_state_dict", "weights", "net"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, (Tensor, np.ndarray, np.generic))}
    averaged = [name for name in tensors if name.startswith("ema")]
    if len(averaged) < len(tensors):
        for name in averaged:
            del tensors[name]
        if averaged:
            logger.info('%d tensors whose names begin with "ema" are not used', len(averaged))
    if not tensors:
        raise UserError(f"no tensors found, only {', '.join(map(str, list(content)[:5])) or 'an empty file'}")
    return {_WRAPPERS.sub("", name): torch.as_tensor(value) for name, value in tensors.items()}


def write(path: str, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whose weights are under "model" or "state_dict", by the path's extension.

    Raises:
        UserError: the extension is neither .pth nor .safetensors.
    """
    if not path.endswith((".pth", ".safetensors")):
        raise UserError(f"{path}: a checkpoint ends in .pth or .safetensors")
    with replacing(path) as scratch:
        if path.endswith(".pth"):
            torch.save({key: _without_views(value) for key, value in content.items()}, scratch)
            return
        from safetensors.torch import save

        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in weights_of(content).items()}
        about = {"about": json.dumps(content["about"])} if content.get("about") else None
        # safetensors' own file could not be read by others than its owner
        scratch.write_bytes(save(tensors, about))


def _without_views(value: Any) -> Any:
    """A state dict whose tensors are not parts of larger ones, which would be saved whole."""
    if not (
        isinstance(value, Mapping) and value and all(isinstance(part, Tensor) for part in value.values())
    ):
        return value
    return {k: v.clone() if v.untyped_storage().nbytes() > v.nbytes else v for k, v in value.items()}
