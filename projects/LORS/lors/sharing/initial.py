"""What a residual starts from.

===========================  ==============================  ==============================
`init`                       "paper" (section 4.1)           "released" (authors' program)
===========================  ==============================  ==============================
LowRank: shared              Kaiming                         torch's default for Linear
LowRank: B, A                Kaiming, 0                      0, Kaiming
GeneratedLowRank: shared     Kaiming                         0
GeneratedLowRank: B, A       Kaiming                         Kaiming, both sides as fan-in
GeneratedLowRank: E          weight 0, torch's default bias  0
===========================  ==============================  ==============================

With "own" the shared weight starts as the first layer's, all else as with "released". A shared bias always
starts as the first layer's. Where nothing is shared, the bias of E is torch's default throughout.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

INITS = ("own", "paper", "released")


def start_low_rank(init: str, shared: Tensor | None, B: nn.ParameterList, A: nn.ParameterList) -> None:
    """Fills in what a `LowRank` has; B are (K, d, r), A (K, r, h)."""
    if shared is not None and init != "own":
        # torch's default for Linear is Kaiming's bound for a = sqrt(5)
        _uniform(shared, math.sqrt((6 if init == "paper" else 1) / shared[0].numel()))
    for of_B, of_A in zip(B, A):
        kept, zeroed = (of_B, of_A) if init == "paper" else (of_A, of_B)
        _kaiming(kept, kept.shape[-1])
        nn.init.zeros_(zeroed)


def start_generated(
    init: str, shared: Tensor | None, B: nn.ParameterList, A: nn.ParameterList, E: nn.ModuleList
) -> None:
    """Fills in what a `GeneratedLowRank` has; B are (g, K, d, r), A (g, K, r, h)."""
    if shared is not None and init == "paper":
        _kaiming(shared, shared.shape[1])
    elif shared is not None and init == "released":
        nn.init.zeros_(shared)
    for of_B, of_A, of_E in zip(B, A, E):
        (d, rank), h = of_B.shape[2:], of_A.shape[3]
        _kaiming(of_B, rank if init == "paper" else d * rank)
        _kaiming(of_A, h if init == "paper" else rank * h)
        nn.init.zeros_(of_E.weight)
        # Where the private part is all there is, it must not be 0, or what follows it never learns.
        if shared is not None and init != "paper":
            nn.init.zeros_(of_E.bias)


def _kaiming(tensor: Tensor, fan_in: int) -> None:
    _uniform(tensor, math.sqrt(6 / fan_in))


def _uniform(tensor: Tensor, bound: float) -> None:
    nn.init.uniform_(tensor, -bound, bound)
