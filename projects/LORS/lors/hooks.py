"""Hooks of the training loop that Detectron2 lacks."""

from __future__ import annotations

import sys

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from tqdm import tqdm


class ClipGradients(HookBase):
    """Scales the gradients so that their norm over all parameters is at most `max_norm`."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def after_backward(self) -> None:
        trainer = self.trainer
        if hasattr(trainer, "grad_scaler"):
            trainer.grad_scaler.unscale_(trainer.optimizer)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), self.max_norm)


class ProgressLine(HookBase):
    """One line at the foot of a terminal: iterations, their rate, the time left, the loss."""

    def before_train(self) -> None:
        self.bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            unit="it",
            dynamic_ncols=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        )

    def after_step(self) -> None:
        self.bar.update()
        losses = get_event_storage().histories().get("total_loss")
        if losses is not None:
            self.bar.set_postfix(loss=f"{losses.median(20):.2f}", refresh=False)

    def after_train(self) -> None:
        self.bar.close()
