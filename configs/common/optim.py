from copy import deepcopy

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from lors.training.schedule import rates

AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(  # train_net.py sets params.model
        base_lr="${optimizer.lr}", lr_factor_func=L(rates)(backbone=1.0, shared=1.0, private=1.0)
    ),
    lr=2.5e-5,  # for a batch of 16
    weight_decay=1e-4,
    fused=True,  # one kernel, and no waiting for the loss scaler
)

AdamW_swin = deepcopy(AdamW)
AdamW_swin.params.update(
    weight_decay_norm=0.0, overrides=dict(relative_position_bias_table=dict(weight_decay=0.0))
)
