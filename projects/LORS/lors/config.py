"""Where AdaMixer and LORS meet: the bank of a LORS decoder, as a config."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from lors.sharing import Bank, GeneratedLowRank, LowRank
from lors.sharing.recipe import Residual


def lors_bank(
    groups: int = 2,
    channels: int = 128,
    points_in: int = 64,
    points_out: int = 128,
    adaptive_rank: int = 16,
    adaptive_groups: int | Sequence[int] = (1, 1, 2, 2, 3, 3),
    static_rank: int = 8,
    static_groups: int | Sequence[int] = 1,
    init: str = "released",
) -> DictConfig:
    """The bank of LORS as a config: the three Linears of each stage's mixing.

    The sizes are by default those of section 4.1, and the start that of the authors' program.

    A name left out of `residual` stays each stage's own (Table 4), `shared` or `private` leave out a term
    (Table 5).
    """
    choices = dict(shared=True, private=True, init=init)
    adaptive = dict(rank=adaptive_rank, groups=adaptive_groups, **choices)
    return L(Bank)(
        residual=L(by_name)(
            channel=L(GeneratedLowRank)(shape=[groups, channels, channels], **adaptive),
            spatial=L(GeneratedLowRank)(shape=[groups, points_in, points_out], **adaptive),
            output=L(LowRank)(rank=static_rank, groups=static_groups, **choices),
        )
    )


def by_name(**residuals: Residual) -> dict[str, Residual]:
    """Residuals for the names they have; a config has no call for a plain dict."""
    return residuals
