"""Runs train_net.py as a user does, on a small dataset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import detectron2

ROOT = Path(__file__).parent.parent
LIGHT = detectron2.__version__.endswith("+light")


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    """Of four iterations on a CPU; more may hold modes like --resume."""
    return [
        "--config-file",
        "configs/custom/tiny_cpu.py",
        *more,
        f"dataset.train_json={data}/train.json",
        f"dataset.train_images={data}/train",
        f"dataset.test_json={data}/test.json",
        f"dataset.test_images={data}/test",
        f"train.output_dir={output}",
        "train.device=cpu",
        "train.log_period=1",
        "train.max_iter=4",
        "train.eval_period=0",
        "train.checkpointer.period=2",
        "train.checkpointer.max_to_keep=9",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.mapper.augmentations=[]",
    ]


def start(*args: str, **options) -> subprocess.Popen:
    """train_net.py under way."""
    cwd = options.pop("cwd", ROOT)
    environment = {**os.environ, **options}
    return subprocess.Popen(
        [sys.executable, os.path.relpath(ROOT / "train_net.py", cwd), *args],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*args: str, **environment: str) -> subprocess.CompletedProcess:
    """train_net.py to its end."""
    process = start(*args, **environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def wait_for_iterations(process: subprocess.Popen, output: Path, number: int) -> None:
    """Detectron2 cannot yet tell the time left after the first three."""
    metrics = output / "metrics.json"
    while process.poll() is None and not (metrics.exists() and len(losses(output)) >= number):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1]


def losses(output: Path) -> dict[int, float]:
    """Iteration -> total loss."""
    lines = (output / "metrics.json").read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return {record["iteration"]: record["total_loss"] for record in records if "total_loss" in record}


def assert_one_line(result: subprocess.CompletedProcess, *wanted: str) -> None:
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    for text in wanted:
        assert text in errors[0]
