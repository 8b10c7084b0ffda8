"""A loss that is not finite: training ends with a record, from which the iteration is computed again."""

from __future__ import annotations

import json
import logging
import os
from functools import partial
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from lors.checkpoints import Checkpointer
from lors.checkpoints.weights import write
from lors.data import Readable, TrainLoader
from lors.errors import UserError
from lors.training.files import replacing
from lors.training.hooks import seed_step
from lors.training.setup import single

logger = logging.getLogger(__name__)


class FiniteLoss(HookBase):
    """Ends training where a loss is not finite; knows the batch and the losses of the last iteration.

    Raises:
        FloatingPointError: a loss is not finite.
    """

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader
        self.images: list[str] = []
        self.losses: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict) -> FiniteLoss:
        return self  # evaluation copies the model, and with it the hooks

    def before_train(self) -> None:
        self.trainer.model.register_forward_pre_hook(self._note_images)
        self.trainer.model.register_forward_hook(self._note_losses)

    def _note_images(self, model: nn.Module, given: tuple[list[dict[str, Any]]]) -> None:
        if model.training:
            self.images, self.losses = [image["file_name"] for image in given[0]], {}

    def _note_losses(self, model: nn.Module, given: Any, output: Any) -> None:
        if model.training:
            self.losses = {name: loss.detach() for name, loss in output.items()}

    def after_backward(self) -> None:
        if not torch.stack(list(self.losses.values())).isfinite().all():
            raise FloatingPointError(f"the loss is not finite in iteration {self.trainer.iter}")

    def write(self, folder: str) -> str:
        """A JSON file, with the weights beside it, to compute the iteration again from: its path."""
        trainer = self.trainer
        process = f"_process{self.loader.process}" if self.loader.processes > 1 else ""
        path = os.path.join(folder, f"not_finite_{trainer.iter:07d}{process}.json")
        weights = path.replace(".json", ".pth")
        write(weights, {"model": single(trainer.model).state_dict()})
        record = {
            "iteration": trainer.iter,
            "images": self.images,
            "losses": {name: loss.item() for name, loss in self.losses.items()},
            "weights": os.path.basename(weights),
            "seed": self.loader.seed,
            "process": self.loader.process,
            "processes": self.loader.processes,
        }
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(record, indent=2) + "\n")
        return path


def replay(path: str, model: nn.Module, loader: TrainLoader, precision: torch.dtype, mixed: bool) -> None:
    """Computes the iteration of a record again; logs its losses and each module and gradient not finite.

    Args:
        path: what `FiniteLoss.write` wrote.
        model, loader: those of the training's config.
        precision, mixed: whether training was in mixed precision, and in which.

    Raises:
        UserError: a matching cost is not finite, after the modules have been logged.
    """
    with open(path) as file:
        record = json.load(file)
    Checkpointer(model).load(os.path.join(os.path.dirname(path), record["weights"]))
    loader.seed, loader.next_batch = record["seed"], record["iteration"]
    loader.process, loader.processes = record["process"], record["processes"]
    batch = next(iter(Readable(loader)))
    logger.info("Images: %s", ", ".join(image["file_name"] for image in batch))
    for name, module in model.named_modules():
        module.register_forward_hook(partial(_log_if_not_finite, name))
    seed_step(loader, record["iteration"])
    with torch.autocast(model.device.type, precision, enabled=mixed):
        try:
            losses = model.train()(batch)
        except FloatingPointError as error:
            raise UserError(str(error)) from error
    sum(losses.values()).backward()
    logger.info("Losses: %s", ", ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items()))
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            logger.info("Gradient not finite: %s", name)


def _log_if_not_finite(name: str, module: nn.Module, given: Any, output: Any) -> None:
    if isinstance(output, Tensor) and not output.isfinite().all():
        logger.info("Output not finite: %s", name)
