"""Learning rates and parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fvcore.common.param_scheduler import CompositeParamScheduler, LinearParamScheduler, ParamScheduler
from torch import nn

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
            settings = {} if base_lr is None else {"lr": base_lr}
            if isinstance(module, NORMS) and weight_decay_norm is not None:
                settings["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{prefix}.{name}")
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
