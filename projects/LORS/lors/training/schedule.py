"""Learning-rate warm-up counted in iterations; Detectron2 counts it as a part of the training."""

from __future__ import annotations

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler


def warm_up(
    scheduler: ParamScheduler, iterations: int, max_iter: int, factor: float = 0.001
) -> WarmupParamScheduler:
    """`scheduler`, led up to linearly from `factor` times its value over the first `iterations`."""
    return WarmupParamScheduler(scheduler, factor, min(iterations / max_iter, 1.0), "linear")
