"""Files that are whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".unfinished-"


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path in the same folder to write to; it takes the place of `path` when the block ends without error.

    The folder is made where it does not exist. The name, and so the extension, is the same.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PREFIX) as scratch:
        unfinished = Path(scratch) / path.name
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())  # a machine that goes down must not keep the new name with no content
        os.replace(unfinished, path)


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Removes what programs that were killed in `replacing` left in a folder."""
    for scratch in Path(folder).glob(f"{_PREFIX}*"):
        shutil.rmtree(scratch, ignore_errors=True)
