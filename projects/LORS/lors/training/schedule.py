"""Iterations, of COCO's epochs and of a warm-up, which Detectron2 counts as a part of the training; rates."""

from __future__ import annotations

import math
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
    """`scheduler`, led up to linearly from `factor` times its value over the first `iterations`."""
    return WarmupParamScheduler(scheduler, factor, min(iterations / max_iter, 1.0), "linear")


def backbone_rate(factor: float) -> Callable[[str], float]:
    """For Detectron2's `lr_factor_func`: the factor of a trained backbone's learning rate, 1 for all else."""
    return lambda name: factor if name.startswith("backbone.") else 1.0
