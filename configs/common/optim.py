import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(),  # train_net.py sets params.model
    lr=2.5e-5,  # for a batch of 16
    weight_decay=1e-4,
)
