#!/usr/bin/env python
"""Detects objects in images, with a config and weights that train_net.py made for it.

    python tools/predict.py --config-file configs/digits/lors_digits.py \\
        --weights output/lors_digits/model_final.pth photo.jpg folder "scans/*.png"
    python tools/predict.py --config-file ... --weights ... folder --json found.json train.device=cpu

An image is a file, a folder (the images in it, not in folders below) or a glob in quotes. KEY=VALUE overrides
the config as for train_net.py. Classes, and how images are prepared, are what the checkpoint says or, of an
older one, the config's.

--output gets a picture for each image, named as the image is below the folder that all of them share.
--json gets COCO's results format, [{"image_id", "category_id", "bbox": [x, y, width, height] in pixels,
"score"}], and in each "file_name" and "category_name". An image_id is the image's place, from 0, among all
images sorted by path. A category_id is that of the training dataset or, where it is not known, the class
index, from 0.

An image that cannot be read is named on stderr and left out, and files of a folder that are no images are
counted. Exits with 1 if none could be read.
"""

from __future__ import annotations

import argparse
import glob
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.structures import BoxMode, Instances
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from lors import merge
from lors.checkpoints import load_detector
from lors.data import Mapper
from lors.data.classes import classes_of
from lors.data.images import BadImage, read_image
from lors.errors import UserError
from lors.training.errors import MENDABLE, config_errors, one_line_errors
from lors.training.files import replacing
from lors.training.setup import dataset_name
from lors.visualize import draw_detections, save

logger = logging.getLogger("lors")

# What is an image in a folder, and what of these can be written too.
READABLE, WRITABLE = (
    {extension for extension, name in Image.registered_extensions().items() if name in formats}
    for formats in (Image.OPEN, Image.SAVE)
)


def find_images(arguments: Iterable[str]) -> list[str]:
    """The image files that files, folders and globs stand for, sorted, each once.

    Raises:
        UserError: nothing matches one of them.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        matches = [argument] if os.path.exists(argument) else glob.glob(argument, recursive=True)
        if not matches:
            raise UserError(f"{argument}: no such file or folder, and no glob that matches one")
        images = [image for match in matches for image in _images_in(match)]
        if not images:
            raise UserError(f"{argument}: no images there ({' '.join(sorted(READABLE))})")
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    return [image for _, image in sorted(found.items())]


def _images_in(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    files = [file for file in glob.glob(os.path.join(glob.escape(path), "*")) if os.path.isfile(file)]
    images = [file for file in files if _extension(file) in READABLE]
    if others := {file: None for file in files if file not in set(images)}:
        kinds = ", ".join(sorted({_extension(file) or "none" for file in others}))
        sys.stderr.write(
            f"left out: {len(others)} files of {path} that are no images, by their extensions: {kinds}\n"
        )
    return images


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def name_pictures(images: Sequence[str], folder: str) -> list[Path]:
    """For each of `find_images`, the file in `folder` that its picture goes to; no two are the same.

    Raises:
        UserError: one of them is one of the images.
    """
    paths = [os.path.abspath(image) for image in images]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    sources = {os.path.realpath(path) for path in paths}
    pictures: dict[Path, None] = {}
    for path in paths:
        name = os.path.relpath(path, shared)
        # The extension says what format to write.
        if _extension(name) not in WRITABLE:
            name += ".png"
        while Path(folder, name) in pictures:
            name += ".png"
        if os.path.realpath(os.path.join(folder, name)) in sources:
            raise UserError(f"--output {folder}: {path} is there; its picture would take its place")
        pictures[Path(folder, name)] = None
    return list(pictures)


def find_classes(cfg: DictConfig, number: int) -> tuple[list[str], list[int]]:
    """Name and category id of each of the model's classes: the checkpoint's, the config's or else numbers."""
    if names := cfg.get("about", {}).get("names"):
        return list(names), list(cfg.about.ids)
    try:
        with config_errors():
            classes = classes_of(dataset_name(cfg.dataloader.train))
        if len(classes.names) != number:
            raise UserError(f"the config's dataset has {len(classes.names)} classes, the model {number}")
    # ImportError: the digits are made on first use, with scikit-learn.
    except (*MENDABLE, ImportError) as error:
        logger.warning("The checkpoint does not name its classes: they are numbers. %s", error)
        return [str(i) for i in range(number)], list(range(number))
    return classes


def read(file_name: str, mapper: Mapper) -> tuple[Image.Image, dict]:
    """An image, upright, and the model's input that a data mapper makes of it.

    Raises:
        BadImage: it cannot be read, or the mapper cannot resize it.
    """
    pixels = read_image(file_name, mapper.max_pixels)
    height, width = pixels.shape[:2]
    return Image.fromarray(pixels), mapper({"file_name": file_name, "width": width, "height": height})


def as_coco(
    found: Instances, image_id: int, file_name: str, names: list[str], category_ids: list[int]
) -> list[dict[str, Any]]:
    """Detections in COCO's results format."""
    boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": category_ids[label],
            "category_name": names[label],
            "bbox": box,
            "score": score,
        }
        for box, score, label in zip(boxes.tolist(), found.scores.tolist(), found.pred_classes.tolist())
    ]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE", help="a checkpoint of that config")
    parser.add_argument("--output", metavar="DIR", help="pictures go there (default: output/predictions)")
    parser.add_argument("--json", metavar="FILE", help="detections go there; no pictures without --output")
    parser.add_argument(
        "--threshold", type=float, default=0.4, metavar="T", help="leave out lower scores (default: 0.4)"
    )
    parser.add_argument("--unmerged", action="store_true", help="keep a LORS bank's shared and private parts")
    parser.add_argument("arguments", nargs="+", metavar="IMAGE | KEY=VALUE")
    args = parser.parse_intermixed_args(argv)
    args.opts = [a for a in args.arguments if re.match(r"[\w.]+=", a) and not os.path.exists(a)]
    args.images = [a for a in args.arguments if a not in args.opts]
    if not args.images:
        parser.error("no image")
    return args


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g}: must be from 0 to 1")
    if args.json and (os.path.isdir(args.json) or not args.json.endswith(".json")):
        raise UserError(f"--json {args.json}: must be a file that ends in .json")
    folder = args.output or (None if args.json else os.path.join("output", "predictions"))
    images = find_images(args.images)
    pictures = name_pictures(images, folder) if folder else [None] * len(images)
    # What cannot be written is better known before the detector has run.
    for made in (folder, os.path.dirname(args.json or "")):
        if made:
            os.makedirs(made, exist_ok=True)

    cfg, model = load_detector(args.config_file, args.weights, args.opts)
    if not args.unmerged:
        model = merge(model)
    cfg.dataloader.test.mapper.on_bad_image = "raise"
    mapper = instantiate(cfg.dataloader.test.mapper)
    names, category_ids = find_classes(cfg, model.decoder.num_classes)

    results, failed = [], 0
    progress = tqdm(images, unit="image", dynamic_ncols=True, leave=False, disable=None)
    for image_id, (file_name, picture) in enumerate(zip(progress, pictures)):
        try:
            image, record = read(file_name, mapper)
        except BadImage as error:  # which begins with its name
            failed += 1
            tqdm.write(f"not read: {error}", file=sys.stderr)
            continue
        with torch.inference_mode():
            found = model([record])[0]["instances"].to("cpu")
        found = found[found.scores >= args.threshold]
        results += as_coco(found, image_id, file_name, names, category_ids)
        if picture:
            save(draw_detections(image, found, names), picture)

    said = [f"images: {len(images) - failed}", f"not read: {failed}"]
    said += [f"detections: {len(results)} (score at least {args.threshold:g})", f"device: {model.device}"]
    if folder:
        said.append(f"pictures: {folder}")
    if args.json:
        with replacing(args.json) as unfinished:
            unfinished.write_text(json.dumps(results), encoding="utf-8")
        said.append(f"JSON: {args.json}")
    sys.stdout.write(", ".join(said) + "\n")
    if failed == len(images):
        sys.exit(1)


if __name__ == "__main__":
    main()
