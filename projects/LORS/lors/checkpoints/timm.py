"""Weights of timm's models, for the backbone `lors.backbones.timm.Timm`."""

from __future__ import annotations

from torch import Tensor

from lors.backbones.timm import timm  # which says how to get it where it is missing
from lors.checkpoints.weights import read, weights_of
from lors.errors import UserError


def pretrained(name: str, weights: str | None = None) -> dict[str, Tensor]:
    """The state dict of `Timm(name)` as a detector's backbone, with ImageNet weights.

    Args:
        weights: a file of the whole model; its tensors have timm's names, or others in timm's order. Without
            one timm finds and downloads them.

    Raises:
        UserError: no such model; the file cannot be read or has tensors of other shapes.
    """
    try:
        whole = timm.create_model(name, pretrained=weights is None)
    except RuntimeError as error:
        raise UserError(f"timm's {name!r}: {error}") from error
    if weights is not None:
        own, given = whole.state_dict(), weights_of(read(weights))
        if own.keys() != given.keys() and len(own) == len(given):
            given = dict(zip(own, given.values()))
        try:
            whole.load_state_dict(given)
        except RuntimeError as error:
            raise UserError(f"{weights}: not the weights of timm's {name}: {error}") from error
    overlay = dict(state_dict=whole.state_dict())
    body = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)
    return {f"backbone.body.{key}": tensor for key, tensor in body.state_dict().items()}
