"""What a config means: the model, the data, and how long training takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from lors.checkpoints.detectors import to_device
from lors.data import TrainLoader, check_records
from lors.data.classes import Classes, classes_of
from lors.data.coco import with_classes
from lors.data.problems import leaked, summarise
from lors.errors import UserError

logger = logging.getLogger(__name__)


def build_model(cfg: DictConfig) -> nn.Module:
    """`cfg.model` on `cfg.train.device`; with `cfg.train.compile`, its decoder is compiled where it runs."""
    model = instantiate(cfg.model)
    if cfg.train.compile:
        model.decoder.compile(fullgraph=True)
    return to_device(model, cfg.train.device)


def train_classes(cfg: DictConfig, model: nn.Module) -> Classes:
    """Those of the training set.

    Raises:
        UserError: the model has another number.
    """
    name = dataset_name(cfg.dataloader.train)
    classes = classes_of(name)
    if len(classes.names) != model.decoder.num_classes:
        raise UserError(
            f"dataset {name} has {len(classes.names)} classes ({', '.join(classes.names)}), the model "
            f"model.decoder.num_classes={model.decoder.num_classes}"
        )
    return classes


def use_test_set(
    cfg: DictConfig, model: nn.Module, classes: Classes | None, trained_on: Sequence[str] = ()
) -> bool:
    """Make the test set ready, with the model's classes matched by name; False where there is none.

    Args:
        classes: None for a checkpoint that does not name its classes: they are taken to be the test set's.
        trained_on: files of images, a warning says which of them are in the test set.

    Raises:
        UserError: an annotation that cannot be used; objects of classes that the model does not have.
    """
    name = instantiate(cfg.dataloader.test.dataset.names) if cfg.dataloader.get("test") else None
    if not name:
        return False
    own = classes_of(name)
    if classes is None and len(own.names) == model.decoder.num_classes:
        logger.warning(
            "The checkpoint does not name its classes; they are taken to be %s", ", ".join(own.names)
        )
        classes = own
    if classes is None:
        raise UserError(
            f"dataset {name} has {len(own.names)} classes ({', '.join(own.names)}), the checkpoint "
            f"{model.decoder.num_classes} that it does not name"
        )
    name = with_classes(name, classes)
    cfg.dataloader.test.dataset.names = cfg.dataloader.evaluator.dataset_name = name
    limits = model.max_detections, cfg.dataloader.evaluator.get("max_dets_per_image") or 100
    records = _load(cfg, "test", model, max_detections=min(limits))
    instantiate({**cfg.dataloader.test, "dataset": records})  # what its mapper and loader refuse is said now
    if problems := leaked(trained_on, (record["file_name"] for record in records)):
        logger.warning("dataset %s: %s", name, summarise(problems))
    return True


def parallel(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The model as it is trained or tested in several processes; itself where there is one."""
    on_gpu = torch.device(cfg.train.device).type == "cuda"
    return create_ddp_model(model, device_ids=[comm.get_local_rank()] if on_gpu else None, **cfg.train.ddp)


def single(model: nn.Module) -> nn.Module:
    """The model without what runs it in several processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def dataset_name(node: DictConfig) -> str:
    """The dataset's; the first of several to train on, for Detectron2 takes none with other classes."""
    names = instantiate(node.dataset.names)
    return names if isinstance(names, str) else names[0]


def _load(cfg: DictConfig, split: str, model: nn.Module, **limits: int) -> list[dict[str, Any]]:
    node = cfg.dataloader[split]
    name = dataset_name(node)
    try:
        records = instantiate(node.dataset)
    except AssertionError as error:
        if "No valid data" not in str(error):  # Detectron2's words where no image is left
            raise
        reason = "no image has a box to learn; crowds do not count (dataset.crowds_as_objects=true)"
        raise UserError(f"dataset {name}: {reason}") from error
    reading = {key: node.mapper[key] for key in ("on_bad_image", "max_pixels") if key in node.mapper}
    check_records(records, name, num_queries=len(model.queries.content), **reading, **limits)
    return records


def load_train_data(cfg: DictConfig, model: nn.Module) -> tuple[TrainLoader, list[str]]:
    """The loader, whose stream has the seed of the config or a random one, and the files of the images."""
    dataset = _load(cfg, "train", model)
    loader = instantiate({**cfg.dataloader.train, "dataset": dataset})
    loader.seed = cfg.train.seed if cfg.train.seed >= 0 else comm.shared_random_seed()
    return loader, [record["file_name"] for record in dataset]


def choose_length(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """train.epochs on the command line wins over the config's train.max_iter, as the other way round.

    Raises:
        UserError: the command line gives both.
    """
    given = dict(override.split("=", 1) for override in overrides)
    given = {name for name in ("train.epochs", "train.max_iter") if given.get(name, "null") != "null"}
    if len(given) == 2:
        raise UserError("train.epochs, train.max_iter: only one of them can be given")
    if given == {"train.epochs"}:
        cfg.train.max_iter = None
    if given == {"train.max_iter"}:
        cfg.train.epochs = None


def count_iterations(cfg: DictConfig, epoch: int) -> None:
    """Fills in what the config leaves to the number of iterations in an epoch, None or COCO's.

    Raises:
        UserError: neither epochs nor iterations are given, or both, or a number of them is not positive.
    """
    train = cfg.train
    if _is_open(train, "max_iter") == (train.epochs is None):
        raise UserError("train.epochs, train.max_iter: one of them must be set, and the other None")
    if train.epochs is not None:
        train.max_iter = train.epochs * epoch
    for node, name in ((train, "eval_period"), (train.checkpointer, "period")):
        if _is_open(node, name):
            node[name] = epoch
    least = {"max_iter": 1, "eval_period": 0, "log_period": 1, "checkpointer.period": 1}
    for name, minimum in least.items():
        value = OmegaConf.select(train, name)
        if not isinstance(value, int) or value < minimum:
            raise UserError(f"train.{name}={value}: must be a whole number of at least {minimum}")
    if train.eval_period:  # of several evaluations between two log lines the writers keep the last
        train.log_period = min(train.log_period, train.eval_period)


def _is_open(node: DictConfig, name: str) -> bool:
    written = OmegaConf.to_container(node, resolve=False)[name]
    return written is None or "lors.coco_iterations" in str(written)


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def keep_settings(optimizer: Optimizer, wanted: Sequence[dict[str, Any]]) -> None:
    """Gives an optimiser that was loaded from a checkpoint the config's settings; what changes is logged."""
    changes: dict[str, None] = {}
    for group, settings in zip(optimizer.param_groups, wanted):
        # The schedule multiplies this one.
        settings = {"initial_lr" if k == "lr" else k: v for k, v in settings.items()}
        for name, value in settings.items():
            if name in group and group[name] != value:
                changes[f"{name} {group[name]} is now {value}"] = None
                group[name] = value
    if changes:
        logger.warning("The config's optimizer differs from the checkpoint's: %s", ", ".join(changes))


def auto_scale(cfg: DictConfig, gpus: int) -> None:
    """Batch and learning rates in proportion to the GPUs, from what the config means for reference_gpus.

    Raises:
        UserError: the batch would not be whole.
    """
    batch = cfg.dataloader.train.total_batch_size * gpus / cfg.train.reference_gpus
    if batch != int(batch):
        raise UserError(f"--auto-scale: a batch of {batch:g} for {gpus} GPUs; it must be whole")
    cfg.dataloader.train.total_batch_size = int(batch)
    params = cfg.optimizer.params
    places = [(cfg.optimizer, "lr"), (params, "base_lr")]
    places += [(group, "lr") for group in (params.get("overrides") or {}).values()]
    # All are read before one is written, as one may be given by another.
    for node, name, rate in [(node, name, node.get(name)) for node, name in places]:
        if rate is not None:
            node[name] = rate * gpus / cfg.train.reference_gpus
