"""The training loop."""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Iterable
from typing import Any, Callable

import torch
from torch import nn
from torch.optim import Optimizer

from ..utils.events import EventStorage

logger = logging.getLogger(__name__)


def launch(
    main_func: Callable[..., Any], num_gpus_per_machine: int, num_machines: int = 1, machine_rank: int = 0,
    dist_url: str | None = None, args: tuple[Any, ...] = (),
) -> None:  # fmt: skip
    """Call `main_func(*args)`; more than one process is an error."""
    if num_gpus_per_machine * num_machines > 1:
        sys.exit(
            "error: detectron2-light runs one process: for several GPUs or machines install full "
            "Detectron2 from https://github.com/facebookresearch/detectron2"
        )
    main_func(*args)


class HookBase:
    """Something done during training; `trainer` is set on registering."""

    trainer: SimpleTrainer

    def before_train(self) -> None:
        return

    def after_train(self) -> None:
        """Called also when training fails."""

    def before_step(self) -> None:
        return

    def after_backward(self) -> None:
        """Called when the gradients are there."""

    def after_step(self) -> None:
        return


class SimpleTrainer:
    """Gradient descent on a model that returns a dict of losses for a batch, with hooks around each step."""

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: Optimizer) -> None:
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.iter = self.start_iter = self.max_iter = 0
        self.storage: EventStorage
        self._hooks: list[HookBase] = []
        self._batches = None

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks, called in this order; None is left out."""
        for hook in filter(None, hooks):
            # The trainer owns the hooks: a real reference back would keep both alive.
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations start_iter, ..., max_iter - 1."""
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.storage = EventStorage(start_iter)
        try:
            self._call_hooks("before_train")
            for self.iter in range(start_iter, max_iter):
                self.storage.iter = self.iter
                self._call_hooks("before_step")
                self.run_step()
                self._call_hooks("after_step")
            # Hooks tell by this that training was not cut short.
            self.iter = max_iter
        except Exception:
            logger.exception("Training stopped by an error:")
            raise
        finally:
            self.storage.iter = self.iter
            self._call_hooks("after_train")

    def _call_hooks(self, event: str) -> None:
        for hook in self._hooks:
            getattr(hook, event)()

    def run_step(self) -> None:
        assert self.model.training, "the model is in evaluation mode"
        start = time.perf_counter()
        # Not in the constructor: the loader's workers start here.
        self._batches = self._batches or iter(self.data_loader)
        data = next(self._batches)
        data_time = time.perf_counter() - start
        losses = self._losses(data)
        self.optimizer.zero_grad()
        self._backward(sum(losses.values()))
        self._call_hooks("after_backward")
        self._write_metrics({k: v.detach().cpu().item() for k, v in losses.items()}, data_time)
        self._step()

    def _losses(self, data: Any) -> dict[str, torch.Tensor]:
        return self.model(data)

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def _step(self) -> None:
        self.optimizer.step()

    def _write_metrics(self, losses: dict[str, float], data_time: float) -> None:
        # Two names, as with several processes data_time is that of the slowest one.
        self.storage.put_scalars(rank_data_time=data_time, data_time=data_time)
        self.storage.put_scalar("total_loss", sum(losses.values()))
        if len(losses) > 1:
            self.storage.put_scalars(**losses)

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iter, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Detectron2 writes "hooks" too: what these hold follows from the iteration.
        self.iter = state_dict["iteration"]
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """SimpleTrainer in mixed precision, on a GPU."""

    def __init__(
        self, model: nn.Module, data_loader: Iterable, optimizer: Optimizer, *, precision: torch.dtype
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.grad_scaler = torch.cuda.amp.GradScaler()

    def _losses(self, data: Any) -> dict[str, torch.Tensor]:
        assert torch.cuda.is_available(), "mixed precision needs a GPU"
        with torch.autocast("cuda", dtype=self.precision):
            return super()._losses(data)

    def _backward(self, loss: torch.Tensor) -> None:
        self.grad_scaler.scale(loss).backward()

    def _step(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
