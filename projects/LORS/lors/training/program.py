"""train_net.py as a program: its flags, processes and signals, and what it says and leaves when it ends."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import multiprocessing
import os
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import detectron2
from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import distributed
from torch.multiprocessing import ProcessExitedException

from lors.checkpoints import load_config
from lors.errors import UserError
from lors.training.errors import MENDABLE, config_errors, one_line_errors
from lors.training.files import remove_unfinished
from lors.training.hooks import NoBetter, Stopped
from lors.training.not_finite import FiniteLoss
from lors.training.setup import auto_scale, choose_length

logger = logging.getLogger(__name__)


@one_line_errors()
def run_program(main: Callable[[argparse.Namespace], None]) -> None:
    """Runs `main` with the command line's flags, in a process for each GPU."""
    parser = default_argument_parser()
    parser.add_argument(
        "--auto-scale",
        action="store_true",
        help="scale batch and learning rate from train.reference_gpus to the GPUs there are",
    )
    parser.add_argument("--replay", metavar="FILE", help="compute again what FILE says was not finite")
    args = parser.parse_args()
    if args.num_gpus < 0:
        raise UserError(f"--num-gpus {args.num_gpus}: must be at least 1, or 0 for the CPU")
    signals: list[int] = []
    if args.num_gpus > 1:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, partial(_pass_on, signals))
    try:
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ProcessExitedException as error:
        if not error.signal_name:
            sys.exit(1)  # that process has said why
        raise OSError(f"process {error.error_index} was killed by {error.signal_name}") from error
    except Stopped as stopped:
        signals.append(stopped.signal)
    if signals:
        sys.exit(128 + signals[0])


def _pass_on(received: list[int], number: int, frame: Any) -> None:
    """What a process that only waits for those that train does with a signal; a second one ends them."""
    received.append(number)
    for child in multiprocessing.active_children():
        os.kill(child.pid, number if len(received) == 1 else signal.SIGKILL)


def set_up(args: argparse.Namespace) -> DictConfig:
    """The config with its overrides; logging, seeds and the output folder as it wants them."""
    with config_errors():
        cfg = load_config(args.config_file, args.opts)
        choose_length(cfg, args.opts)
        if args.auto_scale:
            auto_scale(cfg, comm.get_world_size())
        for name in ("output_dir", "init_checkpoint"):
            cfg.train[name] = os.path.expanduser(cfg.train[name])
        if comm.is_main_process() and not (args.eval_only or args.replay):
            claim(cfg.train.output_dir)  # before anything is written there
            if not args.resume:
                _keep_finished(cfg)
        config = Path(cfg.train.output_dir, "config.yaml")
        trained = config.read_bytes() if (args.eval_only or args.replay) and config.is_file() else b""
        default_setup(cfg, args)
        if trained and comm.is_main_process():
            config.write_bytes(trained)  # the training's, which an evaluation is not
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="lors")
    logger.info("Detectron2 %s from %s", detectron2.__version__, os.path.dirname(detectron2.__file__))
    return cfg


def _keep_finished(cfg: DictConfig) -> None:
    """A training may write over a finished one of the same config, whose results it gives again.

    Raises:
        UserError: the output folder has a finished one of another config.
    """
    folder = Path(cfg.train.output_dir)
    config = folder / "config.yaml"
    if not (config.is_file() and (folder / "model_final.pth").exists()):
        return
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        LazyConfig.save(cfg, file.name)
        ours, theirs = (re.split(r"[{},\n] *", path.read_text()) for path in (Path(file.name), config))
    other = [f"{pair} there" for pair in theirs if pair not in ours]
    other += [f"{pair} here" for pair in ours if pair not in theirs]
    if other:
        raise UserError(
            f"{folder} has a finished training of another config ({', '.join(other[:1] + other[-1:])}): "
            "train.output_dir=... for this one, --resume to go on with that one, or remove it"
        )


@contextmanager
def leaving_nothing_open(cfg: DictConfig) -> Iterator[None]:
    """An error's traceback goes to error.txt, and an old one goes; the processes' group is taken down."""
    path = os.path.join(cfg.train.output_dir, "error.txt")
    if comm.is_main_process() and os.path.exists(path):
        os.remove(path)
    try:
        yield
    except Exception:
        if os.path.isdir(cfg.train.output_dir):
            with open(path, "w") as file:
                traceback.print_exc(file=file)
            logger.error("Where that happened is in %s", path)
        raise
    finally:
        # Left to the interpreter's end, the group's threads may abort a process that has done its work.
        if comm.get_world_size() > 1 and sys.exc_info()[0] in (None, Stopped):
            distributed.destroy_process_group()


@contextmanager
def training(cfg: DictConfig, finite: FiniteLoss, start: int) -> Iterator[None]:
    """While the loop runs from iteration `start`: clean files before it, and how to go on after it."""
    folder = cfg.train.output_dir
    if comm.is_main_process():
        remove_unfinished(folder)
        _cut_metrics(os.path.join(folder, "metrics.json"), start)
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_bug)
    try:
        yield
    except FloatingPointError as error:
        record = finite.write(folder)
        again = _command("--replay", record)
        raise UserError(f"{error}; its images and losses are in {record}; again: {again}") from error
    except Stopped as stopped:
        name, iteration = signal.Signals(stopped.signal).name, finite.trainer.iter
        again = _command("--resume")
        logger.warning("%s: stopped after iteration %d, which is saved; go on: %s", name, iteration, again)
        raise
    except NoBetter as reason:
        logger.info("Training ends after iteration %d: %s", finite.trainer.iter - 1, reason)
    finite.trainer.data_loader.log_count("others were trained on instead")
    logger.info("Checkpoints, metrics.json and log.txt: %s", folder)


_claimed: dict[str, int] = {}


def claim(folder: str | os.PathLike) -> None:
    """Makes a folder, and keeps other processes from claiming it as long as this one lives.

    Raises:
        UserError: another has it.
    """
    place = os.path.realpath(folder)
    if place in _claimed:
        return
    os.makedirs(place, exist_ok=True)
    _claimed[place] = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(_claimed[place], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(_claimed.pop(place))
        raise UserError(f"{folder}: another training writes there") from None
    except OSError:  # some network file systems have no locks
        pass


def _command(*more: str) -> str:
    """This program's command line with other modes."""
    given = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return shlex.join(["python", sys.argv[0], *more, *given])


def _cut_metrics(path: str, start: int) -> None:
    """Leaves the whole lines of a metrics.json that are from before iteration `start`."""
    if not os.path.isfile(path):
        return
    # In place, as the writer has it open.
    with open(path, "r+") as file:
        whole = [line for line in file if line.endswith("}\n")]
        file.seek(0)
        file.writelines(line for line in whole if json.loads(line)["iteration"] < start)
        file.truncate()


def _is_bug(record: logging.LogRecord) -> bool:
    """False where the training loop logs the traceback of what a user can mend; error.txt has it."""
    return not (record.exc_info and isinstance(record.exc_info[1], (*MENDABLE, FloatingPointError)))
