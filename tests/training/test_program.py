"""What train_net.py does as a program, but for its runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lors.errors import UserError
from lors.training.program import claim
from runs import arguments, assert_one_line, command

HOLD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(); input()"


def test_two_processes_do_not_train_in_one_folder(data, tmp_path):
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], **pipes) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match=str(tmp_path)):
            claim(tmp_path)
        assert_one_line(command(*arguments(data, tmp_path)), str(tmp_path))
        assert not list(tmp_path.iterdir())
        other.communicate("\n")
    claim(tmp_path)
    claim(tmp_path)
