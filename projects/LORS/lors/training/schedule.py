"""Iterations, of COCO's epochs and of a warm-up, which Detectron2 counts as a part of the training; rates."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import OmegaConf

COCO_IMAGES = 117_266  # of train2017, with boxes


def coco_iterations(epochs: int | None, batch: int) -> int | None:
    """The iterations in some epochs of COCO."""
    return None if epochs is None else epochs * math.ceil(COCO_IMAGES / batch)


# ${lors.coco_iterations:epochs,batch} in a config; train_net.py counts the images that there are instead
OmegaConf.register_new_resolver("lors.coco_iterations", coco_iterations, replace=True)


def warm_up(
    scheduler: ParamScheduler, iterations: int, max_iter: int, factor: float = 0.001
) -> WarmupParamScheduler:
    """`scheduler`, led up to linearly from `factor` times its value over the first `iterations`.

    That is half of a training at most: Detectron2 leads up to the value of the scheduler at the end of the
    warm-up, so that one beyond the drops of the rate would not reach the rate itself.
    """
    return WarmupParamScheduler(scheduler, factor, min(iterations / max_iter, 0.5), "linear")


def rates(backbone: float = 1.0, shared: float = 1.0, private: float = 1.0) -> Callable[[str], float]:
    """For Detectron2's `lr_factor_func`: factors of the learning rate, 1 for what is none of these.

    Args:
        backbone: less where it has learnt already.
        shared, private: of a bank's shared weights; and of its B, A and E.
    """
    parts = {
        r"backbone\..*": backbone,
        r"(.*\.)?bank\..*\.shared(_bias)?": shared,
        r"(.*\.)?bank\..*\.[BAE]\..*": private,
    }
    return lambda name: next((rate for part, rate in parts.items() if re.fullmatch(part, name)), 1.0)
