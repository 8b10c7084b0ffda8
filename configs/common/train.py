"""What train_net.py reads beside model, data, optimiser and schedule."""

import torch

train = dict(
    output_dir="./output",
    init_checkpoint="",
    factorize=False,  # makes a plain init_checkpoint the nearest weights that a LORS decoder can share
    # One of the two is set; the one on the command line wins.
    epochs=None,
    # In iterations: all the epochs, and once an epoch. What is written here is COCO's, for other programs;
    # train_net.py counts the training set.
    max_iter="${lors.coco_iterations:${train.epochs},${dataloader.train.total_batch_size}}",
    eval_period="${lors.coco_iterations:1,${dataloader.train.total_batch_size}}",
    checkpointer=dict(period="${lors.coco_iterations:1,${dataloader.train.total_batch_size}}", max_to_keep=3),
    best_metric="bbox/AP",  # the evaluation with the most of it is kept as model_best.pth; "" for none
    patience=0,  # how many evaluations without a better one end training; 0 for never
    log_period=20,
    seed=-1,  # negative: another one each time
    amp=dict(enabled=False, precision="float16"),  # or "bfloat16"
    compile=False,  # torch.compile for the decoder; the first steps of each kind of batch take a minute
    float32_precision="",  # "high" allows TF32 on a GPU, "highest" forbids it, "" leaves torch's choice
    cudnn_benchmark=False,
    ddp=dict(
        broadcast_buffers=False,
        find_unused_parameters=False,
        fp16_compression=False,
        static_graph=False,
        gradient_as_bucket_view=True,
    ),
    clip_gradient_norm=1.0,  # 0 for none
    ema_decay=0.0,  # of a moving average of the weights, which then is evaluated and loaded; 0 for none
    reference_gpus=8,  # what batch and learning rate are meant for; see --auto-scale
    device="cuda" if torch.cuda.is_available() else "cpu",
)
