"""Whose weights are these? Known by their names, they become those of `lors.AdaMixer`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lors.checkpoints.backbones import from_backbone
from lors.checkpoints.released import from_released

DETECTOR = "detector of this project"


def convert(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], list[str]]:
    """Any state dict that is known here -> its kind, the weights for `lors.AdaMixer`, the names not used.

    Raises:
        UserError: it is of no known kind, or a tensor of it has no place.
    """
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
