"""Learning rates and parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fvcore.common.param_scheduler import CompositeParamScheduler, LinearParamScheduler, ParamScheduler
from torch import nn, optim

NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def get_default_optimizer_params(
    model: nn.Module, *, weight_decay_norm: float | None = None,
    overrides: dict[str, dict[str, float]] | None = None, base_lr: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Groups of the trainable parameters of model, one per combination of settings.

    Args:
        weight_decay_norm: weight decay in normalization layers, if another.
        overrides: from a parameter's last name, such as "bias", to settings of its own.
        lr_factor_func: from a parameter's whole name to what `base_lr` is multiplied with.
    """
    groups: dict[Any, dict[str, Any]] = {}
    seen = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            separate = isinstance(module, NORMS) and weight_decay_norm is not None
            settings = {"weight_decay": weight_decay_norm} if separate else {}
            if lr_factor_func is not None:
                settings["lr"] = base_lr * lr_factor_func(f"{prefix}.{name}")
            settings.update((overrides or {}).get(name, {}))
            group = groups.setdefault(tuple(settings.items()), {"params": [], **settings})
            group["params"].append(parameter)
    return list(groups.values())


class WarmupParamScheduler(CompositeParamScheduler):
    """Lead up linearly to `scheduler` from `warmup_factor` times its first value.

    `warmup_length` is the part of the training, 0 to 1, that this takes.
    """

    def __init__(
        self, scheduler: ParamScheduler, warmup_factor: float, warmup_length: float,
        warmup_method: str = "linear",
    ) -> None:  # fmt: skip
        assert warmup_method == "linear", warmup_method
        warmup = LinearParamScheduler(warmup_factor * scheduler(0.0), scheduler(warmup_length))
        super().__init__([warmup, scheduler], [warmup_length, 1 - warmup_length], ["rescaled", "fixed"])


class LRMultiplier(optim.lr_scheduler.LRScheduler):
    """Each group's initial learning rate times `multiplier(iteration / max_iter)`."""

    def __init__(
        self, optimizer: optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        # The multiplier comes from the config, which is free to change it on resuming.
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]
