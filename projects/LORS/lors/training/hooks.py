"""Hooks of the training loop that Detectron2 lacks."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lors.checkpoints import Checkpointer
from lors.checkpoints.weights import read, write
from lors.data.loader import TrainLoader, mix
from lors.errors import UserError
from lors.training.curves import draw_training
from lors.training.setup import single

logger = logging.getLogger(__name__)


class SeedSteps(HookBase):
    """The random numbers of an iteration follow from its number, so a resumed training draws the same."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def before_step(self) -> None:
        seed_step(self.loader, self.trainer.iter)


def seed_step(loader: TrainLoader, iteration: int) -> None:
    seed_all_rng(mix(loader.seed, iteration, loader.process))


class ClipGradients(HookBase):
    """Scales the gradients so that their norm over all parameters is at most `max_norm`; puts what it was.

    With a `max_norm` of 0 or None they stay as they are.

    Raises:
        FloatingPointError: the norm is not finite, and no loss scaler is there that would leave the step out.
    """

    def __init__(self, max_norm: float | None) -> None:
        self.max_norm = max_norm or math.inf

    def after_backward(self) -> None:
        trainer = self.trainer
        scaled = hasattr(trainer, "grad_scaler")
        if scaled:
            trainer.grad_scaler.unscale_(trainer.optimizer)
        # The device is waited for here in any case, for the losses.
        norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), self.max_norm).item()
        if math.isfinite(norm):
            trainer.storage.put_scalar("grad_norm", norm)
        elif not scaled:
            raise FloatingPointError(f"the gradients are not finite in iteration {trainer.iter}")


class ClassError(HookBase):
    """Puts the criterion's `class_error` where the device is waited for in any case, for the losses."""

    def after_backward(self) -> None:
        error = getattr(single(self.trainer.model).criterion, "class_error", None)
        if error is not None:
            self.trainer.storage.put_scalar("class_error", error)


class MovingAverage(HookBase):
    """Keeps the exponential moving average of the weights as `averaged`, a torch AveragedModel.

    Args:
        model: as it is trained, on its device.
        decay: the share of the average that an iteration leaves. After n of them it is (1 + n) / (10 + n) at
            most, or the first weights would stay most of the average in a short training.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        def average(averaged: list[Tensor], trained: list[Tensor], _: Tensor) -> None:
            n = int(self.averaged.n_averaged)  # on the host, where the device need not be waited for
            get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, trained, n)

        self.averaged = AveragedModel(single(model), multi_avg_fn=average)

    def before_train(self) -> None:
        if not self.averaged.n_averaged:  # an evaluation may come before the first update
            self.averaged.module.load_state_dict(single(self.trainer.model).state_dict())

    def after_step(self) -> None:
        self.averaged.update_parameters(single(self.trainer.model))


class Evaluation(HookBase):
    """Evaluates before each iteration that `period` divides (0: none) and at the end; puts "task/metric".

    Detectron2's evaluates after the iteration before, when its checkpoint is saved already: a training that
    is killed meanwhile would go on without that evaluation.
    """

    def __init__(self, period: int, evaluate: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        self.period, self.evaluate = period, evaluate

    def before_step(self) -> None:
        if self.period > 0 and self.trainer.iter > 0 and self.trainer.iter % self.period == 0:
            self._put()

    def after_train(self) -> None:
        # After an error or a stop it would hide or delay what ended the training.
        if self.trainer.iter >= self.trainer.max_iter:
            self._put()

    def _put(self) -> None:
        for task, metrics in self.evaluate().items():
            found = {f"{task}/{name}": value for name, value in metrics.items()}
            self.trainer.storage.put_scalars(**found, smoothing_hint=False)


class NoBetter(BaseException):
    """Training ended early; no Exception, of which Detectron2's loop logs the traceback."""


class BestCheckpointer(HookBase):
    """Keeps the weights of the best evaluation as `model_best.pth`; ends training that gets no better.

    Detectron2's forgets on resuming what was best, and has training resumed from that file.

    Args:
        period: of the evaluations, which come before this hook.
        checkpointer: of the training.
        model: what is evaluated.
        metric: its name in the storage, such as "bbox/AP"; more is better.
        patience: how many evaluations without a better one end training; 0 for never.

    Raises:
        NoBetter: in all processes, before an iteration; the one before it is saved as `model_final.pth`.
        UserError: with patience, the evaluation has no such metric.
    """

    def __init__(
        self, period: int, checkpointer: Checkpointer, model: nn.Module, metric: str, patience: int = 0
    ) -> None:
        self.period, self.checkpointer, self.model = period, checkpointer, model
        self.metric, self.patience = metric, patience
        self.best = -math.inf

    def before_train(self) -> None:
        self.path = os.path.join(self.checkpointer.save_dir, "model_best.pth")
        self.iteration = self.trainer.start_iter - 1  # patience begins here where nothing is known
        if self.trainer.start_iter > 0:
            with suppress(FileNotFoundError):
                saved = read(self.path)
                if self.metric in saved.get("best", {}):
                    self.best, self.iteration = saved["best"][self.metric], saved["iteration"]
        elif comm.is_main_process():
            with suppress(FileNotFoundError):
                os.remove(self.path)  # of another training, whose checkpoints this one writes over

    def before_step(self) -> None:
        trainer = self.trainer
        if trainer.iter == 0 or trainer.iter % self.period:
            return
        self._keep()
        if self.patience <= 0:
            return
        without_better = (trainer.iter - 1 - self.iteration) / self.period
        # Only the main process knows the best.
        ends, best = comm.all_gather((without_better >= self.patience, self.best))[0]
        if ends:
            trainer.iter -= 1  # the last that was done
            self.checkpointer.save("model_final", iteration=trainer.iter)
            trainer.iter += 1
            raise NoBetter(f"{self.patience} evaluations without a better {self.metric} than {best:.4g}")

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._keep()

    def _keep(self) -> None:
        history = self.trainer.storage.histories()
        if not comm.is_main_process():
            return
        if self.metric not in history:
            known = ", ".join(name for name in history if "/" in name) or "none"
            reason = f"train.best_metric={self.metric} is no metric of the evaluation, which has {known}"
            if self.patience > 0:
                raise UserError(reason)
            logger.warning("No model_best.pth: %s", reason)
        elif (value := history[self.metric].latest()) > self.best:
            self.best, self.iteration = value, self.trainer.iter - 1
            about = dict(about=self.checkpointer.about, best={self.metric: value}, iteration=self.iteration)
            write(self.path, {"model": single(self.model).state_dict(), **about})
            logger.info("The best %s so far, %.4g, is that of %s", self.metric, value, self.path)


class Picture(HookBase):
    """Draws `training.png` beside metrics.json, every `period` iterations (0: never) and at the end.

    Args:
        log_period: iterations between two lines of metrics.json, which has an evaluation so much later.
    """

    def __init__(self, folder: str, period: int, log_period: int = 1) -> None:
        self.folder, self.period, self.log_period = folder, period, log_period

    def after_step(self) -> None:
        if self.period > 0 and self.trainer.iter % self.period == min(self.log_period, self.period) - 1:
            self.after_train()

    def after_train(self) -> None:
        if not os.path.exists(os.path.join(self.folder, "metrics.json")):
            return  # nothing has been logged yet
        try:
            draw_training(self.folder)
        except Exception as error:  # a picture is not worth a training
            logger.warning("training.png cannot be drawn: %s", error)


class Stopped(KeyboardInterrupt):
    """Training ended as SIGTERM or Ctrl-C asked; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class StopOnSignal(HookBase):
    """SIGTERM and Ctrl-C end training after the iteration under way, which is saved; a second one at once.

    Args:
        period: of several processes, how many iterations pass between two times that they tell each other.

    Raises:
        Stopped: after such an iteration, in all processes.
    """

    def __init__(self, checkpointer: Checkpointer, period: int = 10) -> None:
        self.checkpointer, self.period = checkpointer, period
        self.received = 0
        self._former: dict[int, Any] = {}

    def before_train(self) -> None:
        self._former = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        if comm.get_world_size() == 1:
            self._restore()

    def after_step(self) -> None:
        if comm.get_world_size() > 1 and self.trainer.iter % self.period:
            return
        received = max(comm.all_gather(self.received))
        if received:
            iteration = self.trainer.iter
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            raise Stopped(received)

    def after_train(self) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
