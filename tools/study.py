#!/usr/bin/env python
"""Trains each arm of a study with each seed, and says what they reach, with the spread over the seeds.

    python tools/study.py sharing_digits --processes 2   # trains, and evaluates on the validation images
    python tools/study.py sharing_digits --test          # when all is chosen: the weights on the test images

The study is configs/studies/NAME.py, see docs/studies/README.md. Each run is train_net.py in a process of its
own with one thread, in output/studies/NAME/ARM/SEED. The same command goes on where a stopped one was: what
is finished, here or in another study, is not run again, what was begun resumes. With --published that holds
for what docs/studies/*.json has from other machines too. After each run docs/studies/NAME.json, .md and .png
are written anew.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import detectron2
import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf
from study_report import DOCS, collect, write_report
from tqdm import tqdm

from lors.complexity import parameters
from lors.errors import UserError
from lors.training.errors import config_errors, one_line_errors
from lors.training.files import replacing
from lors.training.overrides import apply_overrides
from lors.training.setup import build_model

STUDIES, OUTPUT = Path("configs/studies"), Path("output/studies")
_PYTHON = platform.python_version()
VERSIONS = f"Python {_PYTHON}, torch {torch.__version__}, Detectron2 {detectron2.__version__}"


class Run(NamedTuple):
    """One training: an arm with a seed."""

    arm: str
    seed: int
    folder: Path
    config: str
    overrides: list[str]
    iterations: int
    parameters: int  # of the decoder
    settings: dict[str, Any]  # config and test images, to tell whether what lies in the folder is of these

    @property
    def fingerprint(self) -> str:
        """The same for the same run in any study."""
        but_the_folder = {**self.settings, "train": {**self.settings["train"], "output_dir": ""}}
        return hashlib.sha256(json.dumps(but_the_folder, sort_keys=True).encode()).hexdigest()[:16]

    def result(self) -> dict[str, Any]:
        """AP and AP50 on `val` and `test`, `seconds` of a core, `versions`, `resumed`, each once it is known.

        Raises:
            UserError: the folder has a run with other settings.
        """
        path = self.folder / "study.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.pop("settings", self.settings) != self.settings:
            raise UserError(f"{self.folder} was made with other settings than the study now has: remove it")
        return known

    def note(self, **more: Any) -> None:
        with replacing(self.folder / "study.json") as path:
            path.write_text(json.dumps({**self.result(), **more, "settings": self.settings}))

    def part_done(self) -> float:
        """Of the training, 0 to 1."""
        metrics = self.folder / "metrics.json"
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        whole = [line for line in lines if line.endswith("}\n")]
        return min(1.0, (json.loads(whole[-1])["iteration"] + 1) / self.iterations) if whole else 0.0


def load_study(name: str) -> DictConfig:
    path = STUDIES / f"{name}.py"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in STUDIES.glob("*.py")))
        raise FileNotFoundError(f"{path} does not exist; there are {there or 'none'}")
    with config_errors():
        return LazyConfig.load(str(path)).study


def data_overrides(study: DictConfig) -> tuple[list[str], list[str]]:
    """What has train_net.py train and validate, and what after it has it test."""
    val, test = list(study.get("val", [])), list(study.get("test", []))
    if data := study.get("dataset"):
        val += [f"dataset.{key}={data[key]}" for key in ("train_json", "train_images", "val_fraction")]
        test += [f"dataset.{key}={data[key]}" for key in ("test_json", "test_images")]
        test += ["dataset.val_fraction=0"]
    return val, test


def run_folder(study: Path, arm: str, seed: int) -> Path:
    return study / re.sub(r"\W+", "_", arm) / str(seed)


def plan(study: DictConfig, val: Sequence[str], test: Sequence[str], folder: Path) -> list[Run]:
    """All runs, a seed at a time, so that a study that is stopped has compared its arms."""
    runs, sizes = [], {}
    for seed in study.seeds:
        for arm, node in study.arms.items():
            config = node.get("config", study.config)
            place = run_folder(folder, arm, seed)
            opts = [*val, *study.get("overrides", []), *node.get("overrides", [])]
            opts += ["train.eval_period=0", "train.checkpointer.max_to_keep=1"]
            opts += [f"train.seed={seed}", f"train.output_dir={place}"]
            if "start" in node:
                study_before, arm_before = node.start.split("/")
                before = run_folder(OUTPUT / study_before, arm_before, seed)
                opts.append(f"train.init_checkpoint={before}/model_final.pth")
            with config_errors():
                cfg = apply_overrides(LazyConfig.load(config), opts)
                if arm not in sizes:
                    sizes[arm] = parameters(build_model(cfg).decoder)
            if not cfg.train.max_iter:
                raise UserError(f"{config}: a study needs train.max_iter")
            plain = {**OmegaConf.to_container(cfg), "test": test}
            settings = json.loads(json.dumps(plain, default=lambda x: f"{x.__module__}.{x.__qualname__}"))
            runs.append(Run(arm, seed, place, config, opts, cfg.train.max_iter, sizes[arm], settings))
    return runs


def adopt(run: Run) -> Path | None:
    """Takes over what a run of another study with the same settings has, and says from where."""
    for path in sorted(OUTPUT.glob("*/*/*/study.json")):
        known = json.loads(path.read_text())
        theirs = run._replace(settings=known.pop("settings"))
        if "val" in known and theirs.fingerprint == run.fingerprint:
            shutil.copytree(path.parent, run.folder, ignore=shutil.ignore_patterns(path.name))
            run.note(**known)
            return path
    return None


def adopt_published(run: Run) -> Path | None:
    """Takes over the figures of a run with the same settings, on all images: its weights are elsewhere."""
    for path in sorted(DOCS.glob("*.json")):
        for arm in json.loads(path.read_text())["arms"].values():
            for known in arm["runs"]:
                if "test" in known and known.pop("fingerprint", "") == run.fingerprint:
                    known.pop("seed")
                    run.note(**known)
                    return path
    return None


def lock_study(folder: Path) -> IO[str]:
    """A file that is locked as long as this process or a run that inherits it lives."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder}: this study is running, or a run that was left by a killed one") from None
    return lock


def start(run: Run, test: Sequence[str] | None, lock: IO[str]) -> subprocess.Popen:
    """train_net.py under way, where it was or from the beginning; to test if there are overrides for it."""
    folder, flag, more = run.folder, "--resume", []
    if test is None:
        run.note(resumed=(folder / "study.json").exists())
    else:
        folder, flag = folder / "test", "--eval-only"
        more = [*test, f"train.init_checkpoint={run.folder}/model_final.pth", f"train.output_dir={folder}"]
        folder.mkdir(exist_ok=True)
    command = [sys.executable, "train_net.py", "--config-file", run.config, flag, *run.overrides, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / "stderr.txt", "w") as errors:
        options = dict(stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        return subprocess.Popen(command, **options, pass_fds=[lock.fileno()])


def run_all(
    runs: Sequence[Run], test: Sequence[str] | None, processes: int, lock: IO[str]
) -> Iterator[tuple[Run, int, float]]:
    """Each run, its exit code and its seconds of a core, when it ends; a bar says how much time is left.

    SIGTERM and Ctrl-C end the program once the runs under way have saved and stopped.
    """
    waiting, ended, running, stopped = list(runs), 0, {}, []

    def stop(number: int, frame: Any) -> None:
        waiting.clear()
        stopped.append(number)
        # A terminal's Ctrl-C reaches the runs by itself, and a second signal would not let them save.
        for process in running if number == signal.SIGTERM else ():
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    form = "{l_bar}{bar}| {n:.2f}/{total} runs [{elapsed}<{remaining}{postfix}]"
    pace = dict(smoothing=0, mininterval=1 if sys.stderr.isatty() else 60)
    with tqdm(total=len(runs), bar_format=form, **pace) as bar:
        while waiting or running:
            while waiting and len(running) < processes:
                run = waiting.pop(0)
                running[start(run, test, lock)] = run
            time.sleep(0.5)
            for process, run in list(running.items()):
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode, ended = os.waitstatus_to_exitcode(status), ended + 1
                    del running[process]
                    if not (stopped and process.returncode):
                        yield run, process.returncode, used.ru_utime + used.ru_stime
            begun = sum(run.part_done() for run in running.values()) if test is None else 0
            names = ", ".join(f"{run.arm}, seed {run.seed}" for run in running.values())
            bar.set_postfix_str(names, refresh=False)
            bar.update(ended + begun - bar.n)
    if stopped:
        sys.exit("stopped; the same command goes on")


def outcome(folder: Path, exit_code: int) -> dict[str, float]:
    """AP and AP50 as train_net.py logged them last.

    Raises:
        UserError: it failed.
    """
    if exit_code:
        last = (folder / "stderr.txt").read_text().strip().rpartition("\n")[2]
        raise UserError(f"{folder}: {last or f'exit code {exit_code}'}")
    logged = re.findall(r"copypaste: (AP.*)\n.*copypaste: (.*)", (folder / "log.txt").read_text())
    if not logged:
        raise UserError(f"{folder}: nothing was evaluated; a study needs dataset.val_fraction or val")
    names, values = logged[-1]
    found = dict(zip(names.split(","), map(float, values.split(","))))
    return {"AP": found["AP"], "AP50": found["AP50"]}


@one_line_errors()
def main() -> None:
    as_it_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_it_is)
    parser.add_argument("study", metavar="NAME", help="of configs/studies/NAME.py")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--published", action="store_true", help="train nothing that docs/studies has")
    parser.add_argument("--test", action="store_true", help="evaluate the finished runs on the test images")
    args = parser.parse_args()
    study, folder = load_study(args.study), OUTPUT / args.study
    lock = lock_study(folder)
    val, test = data_overrides(study)
    runs = plan(study, val, test, folder)
    for run in runs:
        if not run.folder.exists():
            if source := adopt(run) or (args.published and adopt_published(run)):
                tqdm.write(f"{run.folder}: taken over from {source}", file=sys.stderr)
    part = "test" if args.test else "val"
    if args.test and any("val" not in run.result() for run in runs):
        raise UserError("the test images are looked at once: first let all runs finish, without --test")
    waiting, errors = [run for run in runs if part not in run.result()], []
    for run, exit_code, seconds in run_all(waiting, test if args.test else None, args.processes, lock):
        try:
            found = outcome(run.folder / "test" if args.test else run.folder, exit_code)
        except ValueError as error:
            errors.append(error)
            tqdm.write(f"error: {error}", file=sys.stderr)
        else:
            run.note(**{part: found}, **({} if args.test else dict(seconds=seconds, versions=VERSIONS)))
            write_report(collect(args.study, study, runs))
    if errors:
        raise UserError(f"{len(errors)} runs failed, and the same command tries again: {errors[0]}")
    write_report(collect(args.study, study, runs))


if __name__ == "__main__":
    main()
