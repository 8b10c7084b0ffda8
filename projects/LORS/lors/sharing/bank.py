"""The bank that N identical layers pull their weights from (Li et al., CVPR 2024, section 3).

    bank = share(model, "encoder.layers", LowRank(rank=8))    # in place; train as before
    plain = merge(model)                                      # a plain model with the same function

The bank keeps what the layers share once, and for each layer a residual. A layer stays an ordinary module;
where it reads a weight, a property of its class composes it. So state dicts hold each tensor once, and a copy
of the model is whole. A layer alone is not: its parameters are those that it does not pull.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import TypeVar, Union

import torch
from torch import nn

from lors.sharing.layers import (
    check_alike,
    check_can_pull,
    find_layers,
    find_owner,
    is_matrix,
    matches,
    parameters_of,
)
from lors.sharing.pulling import Pulling, keep, let_pull
from lors.sharing.recipe import Residual

Model = TypeVar("Model", bound=nn.Module)
Residuals = Union[Residual, Mapping[str, Residual]]


def share(
    model: nn.Module,
    layers: str,
    residual: Residuals,
    only: str | Sequence[str] | None = None,
    *,
    name: str = "bank",
) -> Bank:
    """Makes the layers of a model pull their weights from one bank, in place.

    The optimiser is made after it. The shared weights start from the first layer's: trained layers are for
    `factorize`. Initialise the layers before: what writes into a composed weight is lost. With FSDP2 the bank
    belongs to the root, which is wrapped with `fully_shard` as well as each layer may be.

    Args:
        layers: the path of the container of the layers, such as "encoder.layers", or a part of it,
            "layer3[1:]".
        residual: `LowRank` or `GeneratedLowRank`; or one for each pattern of parameter names, of which the
            first that matches is taken, and what none matches stays each layer's own.
        only: patterns of the names to share. Without any it is all that has two or more dimensions.
        name: of the bank, beside the layers.

    A pattern matches a name, or whole parts of it, as in `fnmatch`: "attn" matches "attn.qkv.weight".

    Raises:
        ValueError: layers that are not there or not alike, a pattern without a match, a rank that does not
            fit, parameters that are in two places, layers that pull already.
    """
    owner = find_owner(model, layers)
    if getattr(owner, name, None) is not None:
        raise ValueError(f"{layers!r} has a {name} beside it already; name=... gives this bank another name")
    bank = Bank(residual, only)
    bank.attach(find_layers(model, layers), model)
    setattr(owner, name, bank)
    return bank


@torch.no_grad()
def merge(model: Model) -> Model:
    """A copy in which every layer owns the weights it pulled: plain classes and names; banks are None."""
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        if isinstance(module, Pulling):
            keep(module)
        for name, child in list(module.named_children()):
            if isinstance(child, Bank):
                delattr(module, name)  # or it would stay a child, of None
                setattr(module, name, None)
    return plain


class Bank(nn.Module):
    """What N layers share and keep: for the weight NAME of the layers, the residual is `bank.NAME`.

    Args:
        residual, only: as in `share`, which makes a bank and attaches it.
    """

    def __init__(self, residual: Residuals, only: str | Sequence[str] | None = None) -> None:
        super().__init__()
        self.recipes = dict(residual) if isinstance(residual, Mapping) else {"*": residual}
        for recipe in self.recipes.values():
            if not isinstance(recipe, Residual):
                raise ValueError(f"residual={recipe!r}: must be a LowRank or a GeneratedLowRank")
        if not self.recipes:
            raise ValueError("residual={}: there is none in it")
        self.only = None if only is None else [only] if isinstance(only, str) else list(only)

    def attach(self, layers: Sequence[nn.Module], model: nn.Module | None = None) -> None:
        """Takes the weights out of the layers and lets them pull from here.

        Args:
            model: has the layers, and what else may hold their weights.

        Raises:
            ValueError: as `share`; the layers are then as they were.
        """
        if self.residuals():
            raise ValueError("the bank has layers already: each stack needs one of its own")
        check_alike(layers)
        recipes = self._choose(layers[0])
        made_names = [made for name, recipe in recipes.items() for made in recipe.made_names(name)]
        check_can_pull(layers, made_names, nn.ModuleList(layers) if model is None else model)
        for name, recipe in recipes.items():
            try:
                self._place(name, recipe.build(parameters_of(layers, name, recipe.made_names(name))))
            except (KeyError, ValueError) as error:  # a KeyError where a bank has that attribute itself
                raise ValueError(f"{name}: {error.args[0]}") from error
        for name, residual in self.residuals().items():
            before = len(layers) * layers[0].get_parameter(name).numel()
            after = sum(p.numel() for p in residual.parameters())
            if after >= before:
                warnings.warn(
                    f"{name}: {after} parameters instead of {before}, as rank {residual.rank} is too large",
                    stacklevel=3,
                )
            for i, layer in enumerate(layers):
                let_pull(layer, residual.made_names(name), residual, i)

    def _choose(self, layer: nn.Module) -> dict[str, Residual]:
        """The names of the weights to share, and the recipe of each."""
        matrices = [name for name, p in layer.named_parameters() if is_matrix(p)]
        for pattern in [*self.recipes, *(self.only or ())]:
            if not any(matches(name, pattern) for name in matrices):
                raise ValueError(f"pattern {pattern!r}: matches none of the layers' {', '.join(matrices)}")
        chosen = {}
        for name in matrices:
            wanted = self.only is None or any(matches(name, pattern) for pattern in self.only)
            pattern = next((pattern for pattern in self.recipes if matches(name, pattern)), None)
            if wanted and pattern is not None:
                chosen[name] = pattern
        if unused := [pattern for pattern in self.recipes if pattern not in chosen.values()]:
            raise ValueError(f"pattern {unused[0]!r}, only={self.only}: nothing is left for it")
        return {name: self.recipes[pattern] for name, pattern in chosen.items()}

    def _place(self, name: str, residual: Residual) -> None:
        place: nn.Module = self
        *parents, leaf = name.split(".")
        for part in parents:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.add_module(leaf, residual)

    def residuals(self) -> dict[str, Residual]:
        """The name of each shared weight in a layer, and its residual."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Residual)}
