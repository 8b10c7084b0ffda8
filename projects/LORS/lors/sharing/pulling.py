"""How a module pulls: its class gets a property for each weight, which asks the bank."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lors.sharing.recipe import Residual


class Pulling:
    """A module whose class has a property for each parameter that it pulls; made by `_class_that_pulls`."""

    _pulled: dict[str, tuple[Residual, int, int]]  # residual, layer, place among what it makes
    _pulled_among: tuple[str, ...]  # the names of its own parameters, before it pulled any
    _made: dict[tuple[str, bool], Tensor] | None = None  # in a forward pass, what it has read so far

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # nn.MultiheadAttention reads a weight several times in a pass.
        self._made = {}
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._made = None

    def _read(self, name: str) -> Tensor:
        made = {} if self._made is None else self._made
        key = name, torch.is_grad_enabled()  # what is read under no_grad has no gradients for later
        if key not in made:
            residual, layer, place = self._pulled[name]
            made[key] = residual.weights(layer)[place]
        return made[key]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name in self._pulled:
            if prefix + name in state_dict:
                raise ValueError(
                    f"the state dict has a plain {prefix + name}, which the model pulls from a bank: "
                    f"load it into the plain model, and factorize that"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        return _blank, (_plain_class(self), tuple(self._pulled)), self.__getstate__()


class PullingLinear(Pulling):
    """An nn.Linear, which may be applied without its weight."""

    def forward(self, input: Tensor) -> Tensor:
        residual, layer, _ = self._pulled["weight"]
        return residual.linear(input, layer, None if "bias" in self._pulled else self.bias)


@functools.cache
def _class_that_pulls(plain: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    linear = plain.forward is nn.Linear.forward and "weight" in names
    properties = {name: _property(name) for name in names}
    bases = (PullingLinear if linear else Pulling, plain)
    return type(
        plain.__name__, bases, {"__module__": plain.__module__, "__doc__": plain.__doc__, **properties}
    )


def _property(name: str) -> property:
    return property(lambda module: module._read(name))


def _plain_class(module: nn.Module) -> type[nn.Module]:
    kind = type(module)
    return kind.__bases__[1] if issubclass(kind, Pulling) else kind


def _blank(plain: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """For copies and pickles, a pulling module without content."""
    kind = _class_that_pulls(plain, names)
    return kind.__new__(kind)


def let_pull(layer: nn.Module, names: Sequence[str], residual: Residual, number: int) -> None:
    """Takes parameters of one module out of a layer, and lets it pull what the residual makes for them."""
    module = layer.get_submodule(names[0].rpartition(".")[0])
    leaves = [name.rpartition(".")[2] for name in names]
    if not isinstance(module, Pulling):
        module._pulled_among = tuple(name for name, _ in module.named_parameters(recurse=False))
    for leaf in leaves:
        delattr(module, leaf)
    plain = _plain_class(module)
    pulled = {leaf: (residual, number, place) for place, leaf in enumerate(leaves)}
    module._pulled = {**getattr(module, "_pulled", {}), **pulled}
    module.__class__ = _class_that_pulls(plain, tuple(module._pulled))


def keep(module: Pulling) -> None:
    """Makes it plain, with the weights that it pulls now as its own."""
    own = dict(module.named_parameters(recurse=False))
    made = {}
    for name, (residual, layer, place) in module._pulled.items():
        parameters = list(residual.parameters())
        dtype = parameters[0].dtype
        # Apple's GPUs have no float64.
        wide = dtype if parameters[0].is_mps else torch.promote_types(dtype, torch.float64)
        weight = residual.weights(layer, wide)[place].to(dtype, copy=True)
        trained = any(parameter.requires_grad for parameter in parameters)
        made[name] = nn.Parameter(weight, requires_grad=trained)
    module.__class__ = _plain_class(module)
    # In the plain model's order, by which an optimiser's state goes.
    places = {name: i for i, name in enumerate(module._pulled_among)}
    ordered = sorted({**own, **made}.items(), key=lambda item: places.get(item[0], len(places)))
    for attribute in ("_pulled", "_pulled_among", "_made"):
        vars(module).pop(attribute, None)
    for name in own:
        delattr(module, name)
    for name, parameter in ordered:
        module.register_parameter(name, parameter)
