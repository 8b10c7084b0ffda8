"""A trained plain decoder as the nearest LORS one, so that nobody has to start from scratch."""

from __future__ import annotations

import copy
import logging
from typing import TypeVar

import torch
from torch import nn

from lors.bank import ParameterBank
from lors.files import replacing
from lors.stack import DenseGenerator, DenseLinear, Groups

Model = TypeVar("Model", bound=nn.Module)
logger = logging.getLogger(__name__)

PARTS = ("channel", "spatial", "output")


def factorize(
    model: Model,
    adaptive_rank: int = 16,
    adaptive_groups: Groups = (1, 1, 2, 2, 3, 3),
    static_rank: int = 8,
    static_groups: Groups = 1,
) -> Model:
    """A copy of a detector whose dense bank is the nearest LORS bank; the defaults are the paper's.

    Raises:
        ValueError: the bank is LORS already, or a rank or group count does not fit it.
    """
    bank = model.decoder.bank
    found = {}
    for name in PARTS:
        stack = getattr(bank, name)
        if not isinstance(stack, (DenseGenerator, DenseLinear)):
            raise ValueError(f"decoder.bank.{name} is LORS already: only a dense bank can be factorized")
        static = isinstance(stack, DenseLinear)
        logger.info("Factorizing %s", name)
        found[name] = stack.factorize(
            *((static_rank, static_groups) if static else (adaptive_rank, adaptive_groups))
        )
    # The copy takes the LORS bank where the model has its own, which is never copied.
    return copy.deepcopy(model, {id(bank): ParameterBank(**found)})


@torch.no_grad()
def relative_errors(plain: nn.Module, lors: nn.Module) -> dict[str, list[float]]:
    """How far the weights of each part and stage are from the plain ones, |difference| / |plain|."""
    errors = {}
    for name in PARTS:
        dense, merged = getattr(plain.decoder.bank, name), getattr(lors.decoder.bank, name).merge()
        errors[name] = [
            ((ours - theirs).norm() / theirs.norm()).item()
            for ours, theirs in zip(merged.weight, dense.weight)
        ]
    return errors


@torch.no_grad()
def draw_spectra(plain: nn.Module, lors: nn.Module, path: str) -> None:
    """Write a picture of the singular values of what each part and stage has beyond the shared weight.

    A mark shows the rank that was kept. A generator's are those of its first group, (d, h, d_q), as a
    d x (h d_q) matrix.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(PARTS)), PARTS):
        dense, twin = getattr(plain.decoder.bank, name), getattr(lors.decoder.bank, name)
        static = isinstance(dense, DenseLinear)
        for i, weight in enumerate(dense.weight):
            rest = weight - (twin.shared_weight if static else twin.shared.weight)
            rest = (rest if static else rest.unflatten(0, dense.shape)[0].flatten(1)).double()
            values = torch.linalg.eigvalsh(rest @ rest.T).clamp(min=1e-24).sqrt().flip(0).cpu()
            (line,) = axes.plot(range(1, len(values) + 1), values, label=f"stage {i}")
            kept = min(twin.groups[i] * twin.rank, len(values))
            axes.plot(kept, values[kept - 1], "o", color=line.get_color())
        axes.set(title=f"{name}, beyond what is shared", xlabel="singular value", yscale="log")
        axes.legend()
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=110)
