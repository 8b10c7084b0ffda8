"""The usual hooks."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Sequence

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from torch.optim.lr_scheduler import LambdaLR

from ..utils.events import CommonMetricPrinter, JSONWriter
from .train_loop import HookBase

logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Puts `time`, the seconds of each iteration after the first two, which pay for what is set up once."""

    def before_train(self) -> None:
        self._begin = time.perf_counter()

    def before_step(self) -> None:
        self._step_begin = time.perf_counter()

    def after_step(self) -> None:
        if self.trainer.iter - self.trainer.start_iter >= 2:
            self.trainer.storage.put_scalar("time", time.perf_counter() - self._step_begin)

    def after_train(self) -> None:
        seconds = int(time.perf_counter() - self._begin)
        logger.info(f"Total training time: {datetime.timedelta(seconds=seconds)}")


class PeriodicWriter(HookBase):
    """Calls the writers every `period` iterations and at the end."""

    def __init__(self, writers: Sequence[CommonMetricPrinter | JSONWriter], period: int = 20) -> None:
        self._writers = writers
        self._period = period

    def _write(self) -> None:
        for writer in self._writers:
            writer.write(self.trainer.storage)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        # What other hooks put at the end, such as the last evaluation.
        self._write()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Multiplies the learning rate of each iteration by `scheduler`, and puts it as `lr`."""

    def __init__(self, *, scheduler: ParamScheduler) -> None:
        self._multiplier = scheduler

    def before_train(self) -> None:
        trainer = self.trainer
        groups = trainer.optimizer.param_groups
        self._shown = max(groups, key=lambda group: len(group["params"]))
        self._scheduler = LambdaLR(
            trainer.optimizer, lambda i: self._multiplier(i / trainer.max_iter), trainer.iter - 1
        )

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("lr", self._shown["lr"], smoothing_hint=False)
        self._scheduler.step()
