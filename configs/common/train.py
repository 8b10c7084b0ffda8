"""What train_net.py reads beside model, data, optimiser and schedule."""

import torch

train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=90000,
    seed=-1,  # negative: another one each time
    amp=dict(enabled=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    clip_gradient_norm=1.0,
    checkpointer=dict(period=5000, max_to_keep=3),
    eval_period=5000,
    log_period=20,
    device="cuda" if torch.cuda.is_available() else "cpu",
)
