"""Starting, training and what happens besides."""

from . import hooks
from .defaults import default_argument_parser, default_setup, default_writers
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, launch
