"""The examples run as their first lines say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_language_model_trains_four_ways(tmp_path):
    command = [sys.executable, "examples/language_model.py", "--quick", "--processes", "1"]
    done = subprocess.run([*command, "--output", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in json.loads((tmp_path / "results.json").read_text())}
    assert list(rows) == ["plain", "tied", "LORS", "narrow"]
    assert rows["tied"]["parameters"] < rows["LORS"]["parameters"] <= rows["narrow"]["parameters"]
    assert rows["LORS"]["parameters"] < rows["plain"]["parameters"]
    assert (tmp_path / "picture.png").stat().st_size > 1000 and "| LORS |" in done.stdout
