"""Renaming and laying out the tensors of a state dict, either way, by one table of rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


def _alone(tensor: Tensor) -> tuple[Tensor]:
    return (tensor,)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


class Rule(NamedTuple):
    """One tensor of theirs is one or more of ours, and `join` undoes `split`.

    Names are templates: {i}, {j} stand for numbers, {leaf} for weight or bias, {rest} for anything.
    """

    theirs: str
    ours: Sequence[str]
    split: Callable[[Tensor], Sequence[Tensor]] = _alone
    join: Callable[..., Tensor] = _itself


_FIELDS = {"i": r"\d+", "j": r"\d+", "leaf": "weight|bias", "rest": ".+"}


def to_ours(state_dict: Mapping[str, Tensor], rules: Iterable[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict of theirs -> ours, and the names that no rule knows."""
    compiled = [(_pattern(rule.theirs), rule) for rule in rules]
    converted, unknown = {}, []
    for name, tensor in state_dict.items():
        for pattern, rule in compiled:
            if found := pattern.fullmatch(name):
                names = [template.format(**found.groupdict()) for template in rule.ours]
                converted.update(zip(names, rule.split(tensor)))
                break
        else:
            unknown.append(name)
    return converted, unknown


def to_theirs(state_dict: Mapping[str, Tensor], rules: Iterable[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """The other way."""
    compiled = [(_pattern(rule.ours[0]), rule) for rule in rules]
    converted, used = {}, set()
    for name in state_dict:
        for pattern, rule in compiled:
            if found := pattern.fullmatch(name):
                names = [template.format(**found.groupdict()) for template in rule.ours]
                if all(part in state_dict for part in names):
                    theirs = rule.theirs.format(**found.groupdict())
                    converted[theirs] = rule.join(*(state_dict[part] for part in names))
                    used.update(names)
                break
    return converted, [name for name in state_dict if name not in used]


def _pattern(template: str) -> re.Pattern:
    pattern = re.escape(template)
    for field, values in _FIELDS.items():
        pattern = pattern.replace(rf"\{{{field}\}}", f"(?P<{field}>{values})")
    return re.compile(pattern)
