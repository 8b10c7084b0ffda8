from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

COCO_ITERATIONS_PER_EPOCH = 7330  # 117,266 images with boxes, 16 a batch


def step_schedule(epochs, drops, iterations_per_epoch=COCO_ITERATIONS_PER_EPOCH, warmup=500):
    """Linear warm-up over `warmup` iterations; the rate falls tenfold after each epoch of `drops`."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**k for k in range(len(drops) + 1)],
            milestones=list(drops),
            num_updates=epochs,
        ),
        warmup_length=warmup / (epochs * iterations_per_epoch),
        warmup_method="linear",
        warmup_factor=0.001,
    )
