#!/usr/bin/env python
"""Merges a trained LORS detector into the plain detector with the same function.

    python tools/merge.py --config-file configs/lors_r50_1x.py model_final.pth merged.pth

The merged file loads through configs/adamixer_2x64_r50_1x.py, with the overrides that the LORS config differs
by, such as model.queries.num_queries=300. OUT ends in .pth or .safetensors.
"""

from __future__ import annotations

import argparse
import os
import sys

from omegaconf import OmegaConf

from lors import merge
from lors.checkpoints import load_detector, write
from lors.complexity import parameters
from lors.errors import UserError
from lors.training.errors import one_line_errors


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the LORS detector")
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="overrides, as for train_net.py")
    args = parser.parse_args()
    if os.path.realpath(args.out) == os.path.realpath(args.checkpoint):
        raise UserError(f"{args.out}: is CHECKPOINT itself, which would be written over")
    cfg, model = load_detector(args.config_file, args.checkpoint, args.opts)
    if model.decoder.bank is None:
        raise UserError(
            f"{args.checkpoint}: there is no bank to merge, the detector is plain or merged already"
        )
    merged = merge(model)
    write(args.out, {"model": merged.state_dict(), "about": OmegaConf.to_container(cfg.about)})
    before, after = (parameters(m) / 1e6 for m in (model, merged))
    sys.stdout.write(f"{args.out}: {after:.1f} M parameters, merged from {before:.1f} M\n")


if __name__ == "__main__":
    main()
