#!/usr/bin/env python
"""Writes a trained detector as one program: ONNX, or torch.export's form, by the extension of OUT.

    python tools/export.py --config-file configs/lors_r50_1x.py --weights model_final.pth lors.onnx
    python tools/export.py --config-file ... --weights ... lors.onnx --height 480 --width 640
    python tools/export.py --config-file ... --weights ... lors.pt2 --dynamic

Overrides of the config may follow, as for train_net.py. A LORS bank is merged first. A .pt2 is for the
device that it is made on, train.device.

Input: image (1, 3, H, W), float32 from 0 to 255, channels in the config's image_format, resized as in
evaluation and not padded: H and W are what that gives, so images of several shapes want --dynamic. Output,
best first: boxes (N, 4) as x0, y0, x1, y1 in pixels of that image, scores (N,), classes (N,).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from lors.checkpoints import load_detector
from lors.checkpoints.about import resizes
from lors.errors import UserError
from lors.export import OUTPUTS, export
from lors.training.errors import one_line_errors


def _largest(cfg: DictConfig) -> tuple[int | None, int | None]:
    """Height and width of the widest image in evaluation; None where nothing limits them."""
    for step in resizes(cfg):
        edge = step.short_edge_length
        if step.max_size < sys.maxsize:
            return edge if isinstance(edge, int) else max(edge), step.max_size
    return None, None


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the detector")
    parser.add_argument("--weights", required=True, metavar="FILE", help="a checkpoint of that config")
    parser.add_argument("--height", type=int, help="of every image (default: of the widest in evaluation)")
    parser.add_argument("--width", type=int, help="of every image (default: of the widest in evaluation)")
    parser.add_argument(
        "--dynamic", action="store_true", help="any height and width of more than the largest stride"
    )
    parser.add_argument("output", metavar="OUT", help="a file .onnx or .pt2")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides, as for train_net.py")
    args = parser.parse_intermixed_args(argv)
    if args.dynamic and (args.height, args.width) != (None, None):
        parser.error("--dynamic: no --height or --width beside it")
    return args


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    # Its optimiser warns of every step that it leaves out.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    cfg, model = load_detector(args.config_file, args.weights, args.opts)
    sides = zip((args.height, args.width), _largest(cfg))
    size = None if args.dynamic else tuple(default if side is None else side for side, default in sides)
    if size and None in size:
        raise UserError("nothing limits the config's test images: give --height and --width, or --dynamic")
    export(model, args.output, size)
    height, width = size or ("H", "W")
    sys.stdout.write(
        f"{args.output}: {os.path.getsize(args.output) / 1e6:.1f} MB, image (1, 3, {height}, {width}) "
        f"{cfg.dataloader.test.mapper.image_format} -> {', '.join(OUTPUTS)}\n"
    )


if __name__ == "__main__":
    main()
