"""The usual hooks."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler

from ..solver import LRMultiplier
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
            writer.write()

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
        last_iter = trainer.iter - 1
        self._scheduler = LRMultiplier(trainer.optimizer, self._multiplier, trainer.max_iter, last_iter)

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("lr", self._shown["lr"], smoothing_hint=False)
        self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self._scheduler.state_dict()


def _flatten(results: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in results.items():
        nested = isinstance(value, Mapping)
        flat.update(_flatten(value, f"{prefix}{name}/") if nested else {f"{prefix}{name}": value})
    return flat


class EvalHook(HookBase):
    """Puts the numbers, or dicts of them, that `eval_function()` returns by name.

    It is called every `eval_period` iterations (0: never) and after the last.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Mapping[str, Any]]) -> None:
        self._period = eval_period
        self._func = eval_function

    def _evaluate(self) -> None:
        self.trainer.storage.put_scalars(**_flatten(self._func()), smoothing_hint=False)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._evaluate()
