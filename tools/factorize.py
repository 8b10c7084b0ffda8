#!/usr/bin/env python
"""Splits a trained plain detector into a LORS detector, to go on training from there.

    python tools/factorize.py --config-file configs/adamixer_2x64_r50_1x.py plain.pth lors.pth

Prints how far each stage's weights are from the plain ones, and draws the spectra of what is not shared
beside OUT. With the default ranks and groups, the paper's, OUT loads through configs/lors_r50_1x.py.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tabulate import tabulate

from lors import factorize
from lors.checkpoints import load_detector, write
from lors.checkpoints.factorizing import draw_spectra, relative_errors
from lors.errors import one_line_errors


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the plain detector")
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides, as for train_net.py")
    parser.add_argument("--adaptive-rank", type=int, default=16)
    parser.add_argument("--adaptive-groups", type=int, nargs="+", default=[1, 1, 2, 2, 3, 3], metavar="K")
    parser.add_argument("--static-rank", type=int, default=8)
    parser.add_argument("--static-groups", type=int, nargs="+", default=[1], metavar="K")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    adaptive_groups, static_groups = (
        groups[0] if len(groups) == 1 else groups for groups in (args.adaptive_groups, args.static_groups)
    )
    _, plain = load_detector(args.config_file, args.checkpoint, args.opts)
    lors = factorize(plain, args.adaptive_rank, adaptive_groups, args.static_rank, static_groups)
    write(args.out, {"model": lors.state_dict()})
    errors = relative_errors(plain, lors)
    rows = [[stage, *parts] for stage, parts in enumerate(zip(*errors.values()))]
    sys.stdout.write("Relative error of the weights\n")
    sys.stdout.write(tabulate(rows, ["stage", *errors], floatfmt=".1e") + "\n")
    picture = str(Path(args.out).with_suffix(".png"))
    draw_spectra(plain, lors, picture)
    sys.stdout.write(f"{args.out}, and the spectra of what is not shared: {picture}\n")


if __name__ == "__main__":
    main()
