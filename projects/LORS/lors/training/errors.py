"""What a user can cause and mend is said in one line; anything else is a bug and keeps its traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED = (AssertionError, FloatingPointError, KeyError, ModuleNotFoundError, OSError, ValueError)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with `error: ...` on stderr and exit code 1 where an EXPECTED error gets this far.

    For `with` or, as `@one_line_errors()`, on a command's main function.
    """
    try:
        yield
    except EXPECTED as error:
        sys.exit(f"error: {_describe(error)}")


@contextmanager
def config_errors() -> Iterator[None]:
    """While a program is set up from a config, whatever goes wrong is a ValueError that blames its values."""
    try:
        yield
    except EXPECTED:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the config cannot be used: {type(error).__name__}: {reason}") from error


def _describe(error: BaseException) -> str:
    """The error in one line, with where datasets are looked for if a file of theirs is missing."""
    # str() of a KeyError is the repr of its text
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(text.split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and error.filename:
        root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
        if os.fspath(error.filename).startswith(root):
            text += f" (DETECTRON2_DATASETS, where datasets are looked for, is {root!r})"
    return text
