"""The layers of a stack: where they are, and whether they can pull from one bank."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lors.sharing.pulling import Pulling

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_layers(model: nn.Module, layers: str) -> list[nn.Module]:
    """The modules in a container, "encoder.layers", or in a part of it, "layer3[1:]".

    Raises:
        ValueError: there is no such container.
    """
    path, part = _parse(model, layers)
    container = model.get_submodule(path)
    # A layer that is there twice counts twice, which `children` would hide.
    named = container.named_modules(remove_duplicate=False)
    return [layer for name, layer in named if name and "." not in name][part]


def find_owner(model: nn.Module, layers: str) -> nn.Module:
    """The module that has the container, or the container's container: one that does not run its children."""
    path = _parse(model, layers)[0].rpartition(".")[0]
    while isinstance(model.get_submodule(path), _CONTAINERS):
        if not path:
            raise ValueError(
                f"{layers!r}: a {type(model).__name__} has no place for a bank; make it a part of a module"
            )
        path = path.rpartition(".")[0]
    return model.get_submodule(path)


def _parse(model: nn.Module, layers: str) -> tuple[str, slice]:
    if not isinstance(layers, str):
        raise ValueError(f"layers is a {type(layers).__name__}: it must be a path such as 'encoder.layers'")
    part = r"\[(-?\d+)?:(-?\d+)?(?::(-?[1-9]\d*)?)?\]"
    path, *ends = re.fullmatch(rf"(.*?)(?:{part})?", layers, re.DOTALL).groups()
    known = dict(model.named_modules())
    if path not in known or not (path or isinstance(model, _CONTAINERS)):
        stacks = [name for name, module in known.items() if isinstance(module, _CONTAINERS) and name]
        nearest = difflib.get_close_matches(path, stacks or [name for name in known if name], 1, 0)
        raise ValueError(f"{layers!r}: no such layers in the model; the nearest are {nearest}")
    return path, slice(*(int(end) if end else None for end in ends))


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern of `fnmatch` is a name or whole parts of it: "attn" is of "attn.qkv.weight"."""
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")


def parameters_of(
    layers: Sequence[nn.Module], name: str, made: Sequence[str]
) -> list[tuple[nn.Parameter, ...]]:
    """Of each layer the parameters of these names, which are made where `name` is shared.

    Raises:
        ValueError: a layer lacks one.
    """
    found = []
    for layer in layers:
        known = dict(layer.named_parameters())
        if missing := [each for each in made if each not in known]:
            raise ValueError(f"the residual makes {missing[0]} as well, which the layers lack")
        found.append(tuple(known[each] for each in made))
    return found


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it can be shared plus a residual: no vector, whatever its shape, and no integers."""
    is_continuous = parameter.is_floating_point() or parameter.is_complex()
    return is_continuous and parameter.dim() > 1 and 1 < len(parameter) < parameter.numel()


def check_alike(layers: Sequence[nn.Module]) -> None:
    """Layers can share if what has parameters in them is built alike.

    Raises:
        ValueError: the first difference, or a layer that pulls already.
    """
    if len(layers) < 2:
        raise ValueError(f"sharing takes at least two layers, and here is {len(layers)}")
    first = _parts(layers[0])
    for i, layer in enumerate(layers):
        parts = _parts(layer)
        for name in {**first, **parts}:
            here, there = first.get(name, "nothing"), parts.get(name, "nothing")
            if here != there:
                raise ValueError(
                    f"layers 0 and {i} differ: {name or 'the layer'} is {here} and {there}; a part of them "
                    f"may be alike, as in 'layers[1:]'"
                )
        for name, module in layer.named_modules():
            if isinstance(module, Pulling):
                raise ValueError(f"layer {i}: {name or 'it'} pulls from a bank already")


def check_can_pull(layers: Sequence[nn.Module], names: Sequence[str], model: nn.Module) -> None:
    """A weight can be pulled where its module alone holds it, and holds it once.

    Raises:
        ValueError: what else of the model holds one.
    """
    places: dict[nn.Parameter, str] = {}
    for i, layer in enumerate(layers):
        for name, parameter in layer.named_parameters(remove_duplicate=False):
            if name in names and parameter in places:
                raise ValueError(f"layer {i}: {name} is the same parameter as {places[parameter]}")
            if name in names:
                places[parameter] = f"{name} of layer {i}"
    held: dict[nn.Parameter, str] = {}
    for module_name, module in model.named_modules():  # a module with two names is one that holds it
        for name, parameter in module.named_parameters(module_name, recurse=False, remove_duplicate=False):
            if parameter in places and parameter in held:
                raise ValueError(f"{held[parameter]} and {name} are one parameter: untie them")
            held[parameter] = name
    for i, layer in enumerate(layers):
        for module_name, module in layer.named_modules():
            for attribute, value in vars(module).items():
                if attribute != "_parameters" and any(
                    isinstance(leaf, nn.Parameter) and leaf in places for leaf in _leaves(value)
                ):
                    kind = f"{type(module).__name__} {module_name}".strip()
                    raise ValueError(f"layer {i}: {kind} keeps parameters in {attribute} too and cannot pull")


def _leaves(value: Any) -> Iterator[Any]:
    """What is in lists, tuples and dicts, and in those that are in them."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _parts(layer: nn.Module) -> dict[str, str]:
    """The class of each module that has parameters, and the kind of each parameter, by name."""
    parts = {}
    for name, module in layer.named_modules():
        if next(module.parameters(), None) is not None:
            parts[name] = type(module).__qualname__
    for name, p in layer.named_parameters():
        parts[name] = f"{tuple(p.shape)} {p.dtype} {p.device}{'' if p.requires_grad else ' frozen'}"
    return parts
