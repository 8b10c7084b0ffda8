"""What a config means: the model, the data, and how long training takes."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lors.data import TrainLoader, check_records, num_classes


def build_model(cfg: DictConfig) -> nn.Module:
    """`cfg.model` on `cfg.train.device`; with `cfg.train.compile`, its decoder is compiled where it runs.

    Raises:
        ValueError: a dataset has more classes than the model.
    """
    model = instantiate(cfg.model)
    for split in ("train", "test"):
        name = instantiate(cfg.dataloader[split].dataset.names)
        classes = num_classes(name)
        if classes > model.decoder.num_classes:
            raise ValueError(
                f"dataset {name}: its class ids go to {classes - 1}, those of the model "
                f"(model.decoder.num_classes={model.decoder.num_classes}) to {model.decoder.num_classes - 1}"
            )
    if cfg.train.compile:
        model.decoder.compile(fullgraph=True)
    return model.to(cfg.train.device)


def parallel(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The model as it is trained or tested in several processes; itself where there is one."""
    on_gpu = torch.device(cfg.train.device).type == "cuda"
    return create_ddp_model(model, device_ids=[comm.get_local_rank()] if on_gpu else None, **cfg.train.ddp)


def load_dataset(cfg: DictConfig, split: str, model: nn.Module) -> list[dict[str, Any]]:
    """The records of a dataset, checked.

    Raises:
        ValueError: an annotation that cannot be used, see `check_records`.
    """
    node = cfg.dataloader[split]
    records = instantiate(node.dataset)
    check_records(
        records,
        instantiate(node.dataset.names),
        num_queries=len(model.queries.content),
        on_bad_image=node.mapper.get("on_bad_image", "raise"),
    )
    return records


def load_train_data(cfg: DictConfig, model: nn.Module) -> tuple[TrainLoader, int]:
    """The loader, whose stream has the seed of the config or a random one, and the number of images."""
    dataset = load_dataset(cfg, "train", model)
    loader = instantiate({**cfg.dataloader.train, "dataset": dataset})
    loader.seed = cfg.train.seed if cfg.train.seed >= 0 else comm.shared_random_seed()
    return loader, len(dataset)


def count_iterations(cfg: DictConfig, epoch: int) -> None:
    """Fills in what the config leaves to the number of iterations in an epoch.

    Raises:
        ValueError: neither epochs nor iterations are given, or a number of them is not positive.
    """
    if cfg.train.max_iter is None:
        if cfg.train.epochs is None:
            raise ValueError("train.epochs, train.max_iter: one of them must be set")
        cfg.train.max_iter = cfg.train.epochs * epoch
    if cfg.train.eval_period is None:
        cfg.train.eval_period = epoch
    if cfg.train.checkpointer.period is None:
        cfg.train.checkpointer.period = epoch
    for name in ("max_iter", "log_period", "checkpointer.period"):
        value = OmegaConf.select(cfg.train, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"train.{name}={value}: must be a whole number of at least 1")


def auto_scale(cfg: DictConfig, gpus: int) -> None:
    """Batch and learning rate in proportion to the GPUs, from what the config means for reference_gpus.

    Raises:
        ValueError: the batch would not be whole.
    """
    batch = cfg.dataloader.train.total_batch_size * gpus / cfg.train.reference_gpus
    if batch != int(batch):
        raise ValueError(f"--auto-scale: a batch of {batch:g} for {gpus} GPUs; it must be whole")
    cfg.dataloader.train.total_batch_size = int(batch)
    cfg.optimizer.lr *= gpus / cfg.train.reference_gpus
