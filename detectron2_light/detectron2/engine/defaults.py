"""The usual command line, setup and writers."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from .. import __version__
from ..config import LazyConfig
from ..utils.env import seed_all_rng
from ..utils.events import CommonMetricPrinter, JSONWriter
from ..utils.logger import setup_logger


def default_argument_parser() -> argparse.ArgumentParser:
    """Detectron2's usual flags, followed by config overrides as `opts`."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="the config to use")
    add("--resume", action="store_true", help="go on from the output folder's last checkpoint")
    add("--eval-only", action="store_true", help="evaluate without training")
    add("--num-gpus", type=int, default=1, help="GPUs per machine")
    add("--num-machines", type=int, default=1, help="number of machines")
    add("--machine-rank", type=int, default=0, help="number of this machine")
    add("--dist-url", default="tcp://127.0.0.1:29500", help="where the processes meet")
    add("opts", nargs=argparse.REMAINDER, help="overrides such as train.max_iter=100")
    return parser


def default_setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Logging, a copy of the config and random seeds, as `cfg.train` wants them."""
    output_dir = cfg.train.output_dir
    setup_logger(output_dir, name="fvcore")
    logger = setup_logger(output_dir)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}"
    logger.info(f"Environment: detectron2 {__version__}, {versions}, {device}")
    logger.info(f"Command line arguments: {args}")
    path = os.path.join(output_dir, "config.yaml")
    LazyConfig.save(cfg, path)
    logger.info(f"Full config saved to {path}")
    seed_all_rng(cfg.train.seed if cfg.train.seed >= 0 else None)
    torch.backends.cudnn.benchmark = cfg.train.get("cudnn_benchmark", False) and not args.eval_only
    if precision := cfg.train.get("float32_precision"):
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int) -> list[CommonMetricPrinter | JSONWriter]:
    """The log and metrics.json; the log's comes first, as it puts eta_seconds for the other."""
    return [CommonMetricPrinter(max_iter), JSONWriter(os.path.join(output_dir, "metrics.json"))]


def create_ddp_model(model: nn.Module, **kwargs: Any) -> nn.Module:
    """The model itself, as there is one process."""
    return model
