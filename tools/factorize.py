#!/usr/bin/env python
"""A trained plain detector as the nearest LORS detector, to start training from.

    python tools/factorize.py --config-file configs/lors_r50_1x.py plain.pth lors.pth

The config is the LORS detector's; the plain one has its shape, as configs/adamixer_2x64_r50_1x.py has the
paper's. The table says how much of each stage's weights is explained, in percent of their sum of squares: by
the bank, by the mean of the stages alone, and by a residual of the same rank with nothing shared.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from detectron2.config import instantiate
from omegaconf import OmegaConf
from tabulate import tabulate

from lors import factorize
from lors.checkpoints import load_config, load_detector, write
from lors.errors import UserError
from lors.training.errors import config_errors, one_line_errors


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the LORS detector")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of the plain detector")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides, as for train_net.py")
    args = parser.parse_args()
    if os.path.realpath(args.out) == os.path.realpath(args.checkpoint):
        raise UserError(f"{args.out}: is CHECKPOINT itself, which would be written over")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    with config_errors():
        bank = instantiate(load_config(args.config_file, args.opts).model.decoder.bank)
    if bank is None:
        raise UserError(f"{args.config_file}: its decoder has no bank to factorize into")
    cfg, plain = load_detector(args.config_file, args.checkpoint, [*args.opts, "model.decoder.bank=null"])
    with config_errors():
        lors, explained = factorize(plain, "decoder.stages", bank.recipes, bank.only)
    write(args.out, {"model": lors.state_dict(), "about": OmegaConf.to_container(cfg.about)})
    rows = [(row.name, row.layer, 100 * row.together, 100 * row.shared, 100 * row.alone) for row in explained]
    headers = ("weight", "stage", "shared + residual, %", "mean alone, %", "residual alone, %")
    sys.stdout.write(f"{tabulate(rows, headers, floatfmt='.1f')}\n{args.out}: written\n")


if __name__ == "__main__":
    main()
