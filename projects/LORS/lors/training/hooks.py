"""Hooks of the training loop that Detectron2 lacks."""

from __future__ import annotations

import signal
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lors.checkpoints import Checkpointer
from lors.data.loader import TrainLoader, mix


class SeedSteps(HookBase):
    """The random numbers of an iteration follow from its number, so a resumed training draws the same."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def before_step(self) -> None:
        seed_step(self.loader, self.trainer.iter)


def seed_step(loader: TrainLoader, iteration: int) -> None:
    seed_all_rng(mix(loader.seed, iteration, loader.process))


class ClipGradients(HookBase):
    """Scales the gradients so that their norm over all parameters is at most `max_norm`.

    Raises:
        FloatingPointError: the norm is not finite, and no loss scaler is there that would leave the step out.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def after_backward(self) -> None:
        trainer = self.trainer
        scaled = hasattr(trainer, "grad_scaler")
        if scaled:
            trainer.grad_scaler.unscale_(trainer.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), self.max_norm)
        if not scaled and not torch.isfinite(norm):
            raise FloatingPointError(f"the gradients are not finite in iteration {trainer.iter}")


class MovingAverage(HookBase):
    """Keeps the exponential moving average of the weights as `averaged`, a torch AveragedModel.

    Args:
        model: as it is trained, on its device.
        decay: the share of the average that an iteration leaves.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.averaged = AveragedModel(_single(model), multi_avg_fn=get_ema_multi_avg_fn(decay))

    def after_step(self) -> None:
        self.averaged.update_parameters(_single(self.trainer.model))


def _single(model: nn.Module) -> nn.Module:
    """The model without what runs it in several processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class Evaluation(EvalHook):
    """Detectron2's, but not after an error or a stop in the last iteration, which it would hide or delay."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


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
