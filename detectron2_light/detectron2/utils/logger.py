"""Logging to the terminal and to log.txt."""

from __future__ import annotations

import functools
import logging
import os
import sys

from termcolor import colored


class _Formatter(logging.Formatter):
    """[11/24 12:00:00 d2.engine.hooks]: message; the level comes before warnings and errors only."""

    def __init__(self, color: str | None) -> None:
        super().__init__(datefmt="%m/%d %H:%M:%S")
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.replace("detectron2", "d2", 1)
        start = f"[{self.formatTime(record, self.datefmt)} {name}]:"
        start = colored(start, self._color) if self._color else start
        level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        return f"{start} {level}{super().format(record)}"


# Cached, so that a second call does not add the handlers again.
@functools.cache
def setup_logger(output: str, distributed_rank: int = 0, *, name: str = "detectron2") -> logging.Logger:
    """Let logger `name` write to the terminal and to log.txt in the folder `output`."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    os.makedirs(output, exist_ok=True)
    file = logging.FileHandler(os.path.join(output, "log.txt"))
    for handler, color in ((logging.StreamHandler(sys.stdout), "green"), (file, None)):
        handler.setFormatter(_Formatter(color))
        logger.addHandler(handler)
    return logger
