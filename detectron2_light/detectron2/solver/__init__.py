"""Learning rates and parameter groups."""

from .build import WarmupParamScheduler
