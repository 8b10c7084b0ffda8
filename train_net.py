#!/usr/bin/env python
"""Trains or evaluates the detector of a LazyConfig file.

python train_net.py --config-file configs/lors_r50_1x.py --num-gpus 8
python train_net.py --config-file configs/lors_r50_1x.py --num-gpus 8 --resume
python train_net.py --config-file configs/lors_r50_1x.py --eval-only train.init_checkpoint=model_final.pth
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from lors import merge
from lors.checkpoints import Checkpointer, load_detector
from lors.checkpoints.about import check_held_out, describe
from lors.checkpoints.checkpointer import first_readable, saved_in
from lors.complexity import parameters
from lors.data import Readable
from lors.data.classes import Classes
from lors.errors import UserError
from lors.training.errors import config_errors, one_line_errors
from lors.training.hooks import (
    BestCheckpointer,
    ClassError,
    ClipGradients,
    Evaluation,
    MovingAverage,
    Picture,
    SeedSteps,
    StopOnSignal,
)
from lors.training.not_finite import FiniteLoss, replay
from lors.training.program import leaving_nothing_open, run_program, set_up, training
from lors.training.setup import (
    build_model,
    count_iterations,
    keep_settings,
    load_train_data,
    parallel,
    settings_of,
    single,
    train_classes,
    use_test_set,
)
from lors.visualize import draw_results

logger = logging.getLogger("lors")


def do_test(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Evaluates the merged model; draws its detections beside the truth."""
    loader = Readable(instantiate(cfg.dataloader.test))
    merged = merge(single(model))
    if cfg.train.compile:  # where sizes repeat, so does the CUDA graph of this mode
        merged.decoder.compile(fullgraph=True, mode="reduce-overhead")
    results = inference_on_dataset(merged, loader, instantiate(cfg.dataloader.evaluator))
    loader.log_count("their objects count as missed")
    if comm.is_main_process():
        print_csv_format(results)
        picture = os.path.join(cfg.train.output_dir, "detections.png")
        found = os.path.join(cfg.dataloader.evaluator.output_dir, "coco_instances_results.json")
        if os.path.isfile(found):
            try:
                draw_results(instantiate(cfg.dataloader.test.dataset.names), found, picture)
                logger.info("Detections beside the truth: %s", picture)
            except Exception as error:  # a picture is not worth a training
                logger.warning("%s cannot be drawn: %s", picture, error)
    return results


def do_train(args: argparse.Namespace, cfg: DictConfig) -> None:
    """Trains.

    Args:
        cfg: the config, with
            model: instantiates to the detector, images -> a dict of losses.
            dataloader.train: instantiates to a `lors.data.TrainLoader`; it has dataset, mapper,
                total_batch_size.
            dataloader.test, dataloader.evaluator: instantiate to what `inference_on_dataset` takes.
            optimizer: instantiates to an optimiser; optimizer.params.model is set to the model.
            lr_multiplier: instantiates to a fvcore scheduler.
            train: all the rest, see configs/common/train.py.
    """
    with config_errors():  # all that training needs, before the first checkpoint is read
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        sizes = parameters(model) / 1e6, parameters(model.decoder) / 1e6
        logger.info("Parameters: %.2f M, of them %.2f M in the decoder", *sizes)
        cfg.optimizer.params.model = model
        optimizer = instantiate(cfg.optimizer)
        wanted = settings_of(optimizer)
        stream, images = load_train_data(cfg, model)
        classes = train_classes(cfg, model)
        # What is wrong with the test set is said now, not when training is over.
        has_test_set = use_test_set(cfg, model, classes, trained_on=images)
        if not has_test_set:
            logger.warning(
                "No test set, no evaluation; dataset.val_fraction=0.1 keeps training images for one"
            )
        count_iterations(cfg, math.ceil(len(images) / cfg.dataloader.train.total_batch_size))
        model = parallel(cfg, model)
        loader = Readable(stream)
        if cfg.train.amp.enabled and torch.device(cfg.train.device).type != "cuda":
            raise UserError(f"train.amp.enabled=true: needs a GPU, and train.device={cfg.train.device}")
        if cfg.train.amp.enabled:
            precision = getattr(torch, cfg.train.amp.precision)
            trainer = AMPTrainer(model, loader, optimizer, precision=precision)
        else:
            trainer = SimpleTrainer(model, loader, optimizer)
        schedule = instantiate(cfg.lr_multiplier)
        if cfg.train.factorize and cfg.model.decoder.get("bank") is None:
            raise UserError("train.factorize=true: the config's decoder has no bank (model.decoder.bank)")
        if cfg.train.factorize and not cfg.train.init_checkpoint:
            raise UserError("train.factorize=true: train.init_checkpoint has no plain detector to start from")
        about = describe(cfg, classes)
        average = MovingAverage(model, cfg.train.ema_decay) if cfg.train.ema_decay else None
        states = dict(trainer=trainer, stream=stream, **(dict(ema=average.averaged) if average else {}))
        checkpointer = Checkpointer(
            model, cfg.train.output_dir, about=about, factorizes=cfg.train.factorize, **states
        )
        tested = average.averaged.module if average else model
        best = None
        if has_test_set and cfg.train.best_metric and cfg.train.eval_period > 0:
            best = BestCheckpointer(
                cfg.train.eval_period, checkpointer, tested, cfg.train.best_metric, cfg.train.patience
            )
        elif cfg.train.patience > 0:
            raise UserError("train.patience: needs a test set, train.eval_period and train.best_metric")
        finite = FiniteLoss(stream)
        main_process = comm.is_main_process()
        trainer.register_hooks(
            [
                Evaluation(cfg.train.eval_period, lambda: do_test(cfg, tested)) if has_test_set else None,
                best,
                hooks.IterationTimer(),
                SeedSteps(stream),
                finite,
                ClipGradients(cfg.train.clip_gradient_norm),
                ClassError(),
                hooks.LRScheduler(scheduler=schedule),
                average,
                StopOnSignal(checkpointer),  # the writer comes after it and writes no iteration twice
                hooks.PeriodicWriter(
                    default_writers(cfg.train.output_dir, cfg.train.max_iter), period=cfg.train.log_period
                )
                if main_process
                else None,
                # After the writer: what is saved has been logged.
                hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if main_process else None,
                Picture(cfg.train.output_dir, cfg.train.eval_period, cfg.train.log_period)
                if main_process
                else None,
            ]
        )
    left = checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumes = args.resume and checkpointer.has_checkpoint()
    start = trainer.iter + 1 if resumes else 0
    if resumes:
        if "ema" in left:
            raise UserError(
                f"{cfg.train.output_dir}: its training has a moving average; train.ema_decay goes on with it"
            )
        check_held_out(cfg, left.get("about") or {})
        keep_settings(optimizer, wanted)
        if cfg.train.seed not in (-1, stream.seed):
            logger.warning("train.seed=%d is not taken, %d goes on", cfg.train.seed, stream.seed)
    elif checkpointer.has_checkpoint():
        # Killed before its first checkpoint, this training would resume the one that was here before.
        trainer.iter = -1
        checkpointer.save("model_start")
    stream.next_batch = start
    if start >= cfg.train.max_iter:
        logger.info(
            "%s is finished: nothing is left of %d iterations", cfg.train.output_dir, cfg.train.max_iter
        )
        if os.path.basename(saved_in(cfg.train.output_dir)[0]) != "model_final.pth":  # ended while saving
            checkpointer.save("model_final", iteration=start - 1)
    with training(cfg, finite, start):
        trainer.train(start, cfg.train.max_iter)


def evaluate(args: argparse.Namespace, cfg: DictConfig) -> None:
    """Evaluates a checkpoint, which knows its classes; for an old one the training set is asked."""
    saved = saved_in(cfg.train.output_dir) if args.resume else []
    if not (saved or cfg.train.init_checkpoint):
        where = (
            f"there is no checkpoint in {cfg.train.output_dir}" if args.resume else "or --resume for the last"
        )
        raise UserError(f"--eval-only: train.init_checkpoint=FILE is needed; {where}")
    folder = cfg.train.output_dir
    load = partial(load_detector, args.config_file, overrides=args.opts)
    cfg, model = first_readable(saved, load) if saved else load(cfg.train.init_checkpoint)
    cfg.train.output_dir = folder  # where `set_up` has its log
    classes = Classes(list(cfg.about.names), list(cfg.about.ids)) if "names" in cfg.about else None
    with config_errors():
        if classes is None:
            with suppress(UserError):
                classes = train_classes(cfg, model)
        if not use_test_set(cfg, model, classes):
            raise UserError("--eval-only: there is no test set")
        check_held_out(cfg, cfg.about)
        model = parallel(cfg, model)
    do_test(cfg, model)


@one_line_errors()
def main(args: argparse.Namespace) -> None:
    """What each process does."""
    cfg = set_up(args)
    with leaving_nothing_open(cfg):
        if args.replay:
            with config_errors():
                model = build_model(cfg)
                loader, _ = load_train_data(cfg, model)
            replay(args.replay, model, loader, getattr(torch, cfg.train.amp.precision), cfg.train.amp.enabled)
        elif args.eval_only:
            evaluate(args, cfg)
        else:
            do_train(args, cfg)


if __name__ == "__main__":
    run_program(main)
