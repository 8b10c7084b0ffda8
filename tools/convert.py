#!/usr/bin/env python
"""Converts weights between this project and others, by what their names say they are.

    python tools/convert.py adamixer_r50_1x.pth ours.pth
    python tools/convert.py --to released ours.pth theirs.pth
    python tools/convert.py --timm tf_efficientnet_lite0 backbone.pth

Known are the authors' AdaMixer and LORS, and the backbones of Detectron2's model zoo, torchvision, timm,
mmdetection and Swin's authors. With --timm, which is for the backbone `lors.backbones.timm.Timm`, IN is the
whole model, and without IN timm downloads it. OUT ends in .pth or .safetensors.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from lors.checkpoints import read_detector, to_released, write
from lors.errors import UserError
from lors.training.errors import one_line_errors


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN", nargs="?")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--to", choices=["lors", "released"], default="lors", help="whose names OUT has")
    parser.add_argument("--timm", metavar="NAME", help="the model of timm whose weights these are")
    args = parser.parse_args()
    if args.source and os.path.realpath(args.out) == os.path.realpath(args.source):
        raise UserError(f"{args.out}: is IN itself, which would be written over")
    if args.timm:
        from lors.checkpoints.timm import pretrained

        write(args.out, {"model": pretrained(args.timm, args.source)})
        sys.stdout.write(f"{args.out}: written\n")
        return
    if not args.source:
        parser.error("IN is missing")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    found = read_detector(args.source)
    weights, about = found["model"], found["about"]
    if args.to == "released":
        meta = {"CLASSES": about["names"]} if "names" in about else {}
        write(args.out, {"state_dict": to_released(weights), "meta": meta})
    else:
        write(args.out, {"model": weights, "about": about})
    sys.stdout.write(f"{args.out}: written\n")


if __name__ == "__main__":
    main()
