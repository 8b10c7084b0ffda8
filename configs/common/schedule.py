from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler

from lors.training.schedule import warm_up


def step_schedule(epochs, drops, warmup=500):
    """Linear warm-up over `warmup` iterations; the rate falls tenfold after each epoch of `drops`."""
    return L(warm_up)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**k for k in range(len(drops) + 1)], milestones=list(drops), num_updates=epochs
        ),
        iterations=warmup,
        max_iter="${train.max_iter}",
    )
