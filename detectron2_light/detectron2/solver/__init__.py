"""Learning rates and parameter groups."""

from .build import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
