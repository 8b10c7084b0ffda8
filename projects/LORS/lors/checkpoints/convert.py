"""Whose weights are these? Known by their names, they become those of `lors.AdaMixer`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from torch import Tensor

from lors.checkpoints.backbones import from_backbone
from lors.checkpoints.released import from_released
from lors.errors import UserError

logger = logging.getLogger(__name__)

DETECTOR = "detector of this project"


def convert(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], list[str]]:
    """Any state dict that is known here -> its kind, the weights for `lors.AdaMixer`, the names not used.

    What all names begin with is left out where they are then known.

    Raises:
        UserError: it is of no known kind, or a tensor of it has no place.
    """
    try:
        return _convert(state_dict)
    except UserError as error:
        prefix = "".join(os.path.commonprefix(list(state_dict)).rpartition(".")[:2])
        try:
            result = _convert({name[len(prefix) :]: tensor for name, tensor in state_dict.items()})
        except UserError:
            raise UserError(f"{error}; all names begin with {prefix!r}" if prefix else str(error)) from None
        logger.info("All names of tensors begin with %s, which is left out", prefix)
        return result


def _convert(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], list[str]]:
    roots = {name.split(".")[0] for name in state_dict}
    if "decoder" in roots:
        return DETECTOR, dict(state_dict), []
    if all(name.startswith("backbone.body.") for name in state_dict):
        return "backbone of timm", dict(state_dict), []
    if "roi_head" in roots:
        is_lors = any(name.startswith("roi_head.adaptive_mixing.") for name in state_dict)
        unused = [name for name in state_dict if name.startswith("rpn_head.init_proposal_bboxes.")]
        return f"{'LORS' if is_lors else 'AdaMixer'} of its authors", from_released(state_dict), unused
    return from_backbone(state_dict)
