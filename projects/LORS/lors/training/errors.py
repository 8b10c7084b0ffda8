"""What a user can mend is said in one line; anything else keeps its traceback."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import detectron2

from lors.errors import UserError

# An OSError is the system's word about a file or a device, and names it.
MENDABLE = (UserError, OSError)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with `error: ...` on stderr and exit code 1 where a MENDABLE error gets this far.

    For `with` or, as `@one_line_errors()`, on a command's main function.
    """
    try:
        yield
    except MENDABLE as error:
        sys.exit(f"error: {_describe(error)}")


@contextmanager
def config_errors() -> Iterator[None]:
    """While objects are made from a config, what libraries and this package refuse are the config's values.

    Raises:
        UserError: in place of their exceptions. What comes from or through code of the user's own, such as a
            stage, is left as it is.
    """
    try:
        yield
    except MENDABLE:
        raise
    except Exception as error:
        # The first two frames are this one and that of the `with` statement.
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][2:]
        if any(_is_users(frame.f_code.co_filename) for frame in frames):
            raise
        text = " ".join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line
        if not isinstance(error, ValueError):
            text = f"{type(error).__name__}: {text.partition(' full_key')[0]}"
        if any(frame.f_globals.get("__name__", "").startswith("lors.sharing.") for frame in frames):
            text = f"model.decoder.bank: {text}"
        raise UserError(f"the config cannot be used: {text}") from error


_LIBRARIES = tuple(
    str(Path(path).resolve()) + os.sep
    for path in (
        *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
        *(Path(__file__).parent.parent, Path(detectron2.__file__).parent),
    )
)


def _is_users(file_name: str) -> bool:
    return not (file_name.startswith("<") or str(Path(file_name).resolve()).startswith(_LIBRARIES))


def _describe(error: BaseException) -> str:
    """The error in one line, with where datasets are looked for if a file of theirs is missing."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and error.filename:
        root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
        if os.fspath(error.filename).startswith(root):
            text += f" (DETECTRON2_DATASETS, where datasets are looked for, is {root!r})"
    return text
