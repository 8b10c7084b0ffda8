#!/usr/bin/env python
"""Trains or evaluates the detector of a LazyConfig file.

python train_net.py --config-file configs/lors_r50_1x.py --num-gpus 8
python train_net.py --config-file configs/lors_r50_1x.py --num-gpus 8 --resume
python train_net.py --config-file configs/lors_r50_1x.py --eval-only train.init_checkpoint=model_final.pth
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import shlex
import signal
import sys
import traceback
from functools import partial
from typing import Any

import detectron2
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import distributed, nn
from torch.multiprocessing import ProcessExitedException
from tqdm.contrib.logging import logging_redirect_tqdm

from lors.checkpoints import Checkpointer
from lors.data import Readable, TrainLoader, check_records, num_classes
from lors.errors import EXPECTED, config_errors, one_line_errors
from lors.files import remove_unfinished
from lors.hooks import ClipGradients, Evaluation, ProgressLine, SeedSteps, StopOnSignal, Stopped
from lors.not_finite import FiniteLoss, replay
from lors.overrides import apply_overrides
from lors.visualize import draw_results

logger = logging.getLogger("lors")


def build_model(cfg: DictConfig) -> nn.Module:
    model = instantiate(cfg.model)
    for split in ("train", "test"):
        name = instantiate(cfg.dataloader[split].dataset.names)
        classes = num_classes(name)
        if classes > model.decoder.num_classes:
            raise ValueError(
                f"dataset {name}: its class ids go to {classes - 1}, those of the model "
                f"(model.decoder.num_classes={model.decoder.num_classes}) to {model.decoder.num_classes - 1}"
            )
    return model.to(cfg.train.device)


def parallel(cfg: DictConfig, model: nn.Module) -> nn.Module:
    on_gpu = torch.device(cfg.train.device).type == "cuda"
    return create_ddp_model(model, device_ids=[comm.get_local_rank()] if on_gpu else None, **cfg.train.ddp)


def load_dataset(cfg: DictConfig, split: str, model: nn.Module) -> list[dict[str, Any]]:
    node = cfg.dataloader[split]
    records = instantiate(node.dataset)
    check_records(
        records,
        instantiate(node.dataset.names),
        num_queries=len(model.queries.content),
        on_bad_image=node.mapper.get("on_bad_image", "raise"),
    )
    return records


def evaluate(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    loader = Readable(instantiate(cfg.dataloader.test))
    results = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    loader.log_count("their objects count as missed")
    if comm.is_main_process():
        print_csv_format(results)
        picture = os.path.join(cfg.train.output_dir, "detections.png")
        found = os.path.join(cfg.dataloader.evaluator.output_dir, "coco_instances_results.json")
        if os.path.isfile(found):
            draw_results(instantiate(cfg.dataloader.test.dataset.names), found, picture)
            logger.info("Detections beside the truth: %s", picture)
    return results


def load_train_data(cfg: DictConfig, model: nn.Module) -> tuple[TrainLoader, int]:
    """The loader, whose stream has the seed of the config or a random one, and the number of images."""
    dataset = load_dataset(cfg, "train", model)
    loader = instantiate({**cfg.dataloader.train, "dataset": dataset})
    loader.seed = cfg.train.seed if cfg.train.seed >= 0 else comm.shared_random_seed()
    return loader, len(dataset)


@config_errors()
def set_up(cfg: DictConfig) -> tuple[SimpleTrainer, Checkpointer, FiniteLoss]:
    """All that training needs, before the first checkpoint is read."""
    model = build_model(cfg)
    logger.info("Model:\n%s", model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    stream, images = load_train_data(cfg, model)
    load_dataset(cfg, "test", model)  # what is wrong with it is said now, not when training is over
    loader = Readable(stream)
    count_iterations(cfg, math.ceil(images / cfg.dataloader.train.total_batch_size))
    model = parallel(cfg, model)
    if cfg.train.amp.enabled:
        precision = getattr(torch, cfg.train.amp.precision)
        trainer = AMPTrainer(model, loader, optimizer, precision=precision)
    else:
        trainer = SimpleTrainer(model, loader, optimizer)
    checkpointer = Checkpointer(
        model, cfg.train.output_dir, backbone_alone=True, trainer=trainer, stream=stream
    )

    finite, stop = FiniteLoss(stream), StopOnSignal(checkpointer)
    everywhere = [
        hooks.IterationTimer(),
        SeedSteps(stream),
        finite,
        ClipGradients(cfg.train.clip_gradient_norm),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
    ]
    evaluation = Evaluation(cfg.train.eval_period, lambda: evaluate(cfg, model))
    if comm.is_main_process():
        writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
        trainer.register_hooks(
            [
                *everywhere,
                hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
                evaluation,
                stop,  # before the writer, which after it writes the iteration for the first time
                hooks.PeriodicWriter(writers, period=cfg.train.log_period),
                ProgressLine(),
            ]
        )
    else:
        trainer.register_hooks([*everywhere, evaluation, stop])

    return trainer, checkpointer, finite


def train(cfg: DictConfig, resume: bool) -> None:
    trainer, checkpointer, finite = set_up(cfg)
    stream, loader = finite.loader, trainer.data_loader
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    stream.next_batch = start
    if comm.is_main_process():
        remove_unfinished(cfg.train.output_dir)
        cut_metrics(os.path.join(cfg.train.output_dir, "metrics.json"), start)
    logging.getLogger("detectron2.engine.train_loop").addFilter(is_bug)
    try:
        with logging_redirect_tqdm([logging.getLogger(name) for name in ("detectron2", "fvcore", "lors")]):
            trainer.train(start, cfg.train.max_iter)
    except FloatingPointError as error:
        record = finite.write(cfg.train.output_dir)
        again = command("--replay", record)
        raise FloatingPointError(f"{error}; its images and losses are in {record}; again: {again}") from error
    except Stopped as stopped:
        name = signal.Signals(stopped.signal).name
        again = command("--resume")
        logger.warning("%s: stopped after iteration %d, which is saved; go on: %s", name, trainer.iter, again)
        raise
    loader.log_count("others were trained on instead")
    logger.info("Checkpoints, metrics.json and log.txt: %s", cfg.train.output_dir)


def command(*more: str) -> str:
    """This program's command line with other modes."""
    given = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return shlex.join(["python", sys.argv[0], *more, *given])


def cut_metrics(path: str, start: int) -> None:
    """Leaves the whole lines of a metrics.json that are from before iteration `start`."""
    if not os.path.isfile(path):
        return
    # In place, as the writer has it open.
    with open(path, "r+") as file:
        whole = [line for line in file if line.endswith("}\n")]
        file.seek(0)
        file.writelines(line for line in whole if json.loads(line)["iteration"] < start)
        file.truncate()


def is_bug(record: logging.LogRecord) -> bool:
    """False where the training loop logs the traceback of what a user can mend; error.txt has it."""
    return not (record.exc_info and isinstance(record.exc_info[1], EXPECTED))


def count_iterations(cfg: DictConfig, epoch: int) -> None:
    """Fills in what the config leaves to the number of iterations in an epoch."""
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
    """Batch and learning rate in proportion to the GPUs, from what the config means for reference_gpus."""
    batch = cfg.dataloader.train.total_batch_size * gpus / cfg.train.reference_gpus
    if batch != int(batch):
        raise ValueError(f"--auto-scale: a batch of {batch:g} for {gpus} GPUs; it must be whole")
    cfg.dataloader.train.total_batch_size = int(batch)
    cfg.optimizer.lr *= gpus / cfg.train.reference_gpus


@one_line_errors()
def run(args: argparse.Namespace) -> None:
    """What each process does."""
    cfg = None
    try:
        with config_errors():
            cfg = apply_overrides(LazyConfig.load(args.config_file), args.opts)
            if args.auto_scale:
                auto_scale(cfg, comm.get_world_size())
            default_setup(cfg, args)
        setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="lors")
        logger.info("Detectron2 %s from %s", detectron2.__version__, os.path.dirname(detectron2.__file__))
        if args.replay:
            with config_errors():
                model = build_model(cfg)
                loader, _ = load_train_data(cfg, model)
            replay(args.replay, model, loader, getattr(torch, cfg.train.amp.precision), cfg.train.amp.enabled)
        elif args.eval_only:
            with config_errors():
                model = build_model(cfg)
                load_dataset(cfg, "test", model)
                model = parallel(cfg, model)
            checkpointer = Checkpointer(model, cfg.train.output_dir)
            if not (cfg.train.init_checkpoint or (args.resume and checkpointer.has_checkpoint())):
                raise ValueError("--eval-only needs train.init_checkpoint=FILE, or --resume for the last one")
            checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
            evaluate(cfg, model)
        else:
            train(cfg, args.resume)
    except EXPECTED:
        if cfg is not None and os.path.isdir(cfg.train.output_dir):
            with open(os.path.join(cfg.train.output_dir, "error.txt"), "w") as file:
                traceback.print_exc(file=file)
        raise
    finally:
        # Left to the interpreter's end, the group's threads may abort a process that has done its work.
        if comm.get_world_size() > 1 and sys.exc_info()[0] in (None, Stopped):
            distributed.destroy_process_group()


@one_line_errors()
def main() -> None:
    parser = default_argument_parser()
    parser.add_argument(
        "--auto-scale",
        action="store_true",
        help="scale batch and learning rate from train.reference_gpus to the GPUs there are",
    )
    parser.add_argument("--replay", metavar="FILE", help="compute again what FILE says was not finite")
    args = parser.parse_args()
    signals: list[int] = []
    if args.num_gpus > 1:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, partial(pass_on, signals))
    try:
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:
        if not error.signal_name:
            sys.exit(1)  # that process has said why
        raise OSError(f"process {error.error_index} was killed by {error.signal_name}") from error
    except Stopped as stopped:
        signals.append(stopped.signal)
    if signals:
        sys.exit(128 + signals[0])


def pass_on(received: list[int], number: int, frame: Any) -> None:
    """What a process that only waits for those that train does with a signal; a second one ends them."""
    received.append(number)
    for child in multiprocessing.active_children():
        os.kill(child.pid, number if len(received) == 1 else signal.SIGKILL)


if __name__ == "__main__":
    main()
