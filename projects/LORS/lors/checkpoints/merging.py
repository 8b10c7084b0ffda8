"""A trained LORS decoder is some plain AdaMixer decoder: merging finds it."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from lors.bank import ParameterBank
from lors.stack import LORSGenerator, LORSLinear

Model = TypeVar("Model", bound=nn.Module)


def merge(model: Model) -> Model:
    """A copy of a detector whose bank is dense: the same function without LORS arithmetic.

    A merged `configs/lors_*.py` has the shape of AdaMixer with 2 groups of 128 channels and 64 points. What
    is dense already is copied, so merging twice is merging once.
    """
    bank = model.decoder.bank
    parts = {name: _merged(getattr(bank, name)) for name in ("channel", "spatial", "output")}
    # The copy takes the merged bank where the model has its own, which is never copied.
    return copy.deepcopy(model, {id(bank): ParameterBank(**parts)})


def _merged(stack: nn.Module) -> nn.Module:
    return stack.merge() if isinstance(stack, (LORSGenerator, LORSLinear)) else copy.deepcopy(stack)
