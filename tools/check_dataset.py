#!/usr/bin/env python
"""Checks a dataset in COCO or Pascal VOC format: the annotations, and every image file.

    python tools/check_dataset.py annotations/instances_train.json images
    python tools/check_dataset.py val.json images --train train.json
    python tools/check_dataset.py VOC/ImageSets/Main/train.txt --json > problems.json

A line for each problem, then how many there are of each kind and what training and evaluation do about them.
Exits with 1 where a kind is an error. The files are only read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from lors.data.check import check
from lors.data.classes import Classes, match
from lors.data.coco import check_image, read
from lors.data.problems import ERROR, KINDS, Problem, leaked, summarise
from lors.data.voc import image_folder, is_voc
from lors.errors import UserError
from lors.training.errors import one_line_errors

# Lines of one kind in the readable form.
LINES = 20


def find_problems(args: argparse.Namespace) -> dict[str, Any]:
    """Sizes of the dataset, and all its problems in the order of `KINDS`."""
    images = args.images or (image_folder(args.annotations) if is_voc(args.annotations) else "")
    if not os.path.isdir(images):
        raise UserError(f"IMAGES: {images!r} is not a folder")
    dataset, problems = read(args.annotations, images)
    sizes = {key: _length(dataset, key) for key in ("images", "annotations", "categories")}
    options = {"crowds_as_objects": args.crowds_as_objects, "by_file": is_voc(args.annotations)}
    problems += check(dataset, images, num_queries=args.queries, max_detections=args.detections, **options)
    if args.train and not any(problem.done == ERROR for problem in problems):
        train_images = args.train_images or (image_folder(args.train) if is_voc(args.train) else "")
        train, _ = read(args.train, train_images)
        train_images = train_images or _among_images(args.train, train) or images
        errors = [problem for problem in check(train, train_images) if problem.done == ERROR]
        if errors := [problem for problem in errors if problem.kind != "missing_image"]:
            raise UserError(f"{args.train} cannot be used: {summarise(errors)}")
        categories = sorted(train["categories"], key=lambda category: category["id"])
        classes = Classes([c["name"] for c in categories], [c["id"] for c in categories])
        problems = [problem for problem in problems if problem.kind != "class_without_boxes"]
        problems += match(dataset, classes)
        problems += [problem for problem in check(dataset) if problem.kind == "class_without_boxes"]
        paths = (
            [os.path.join(folder, image["file_name"]) for image in content["images"]]
            for content, folder in ((train, train_images), (dataset, images))
        )
        problems += leaked(*paths)
    if sizes["images"]:
        entries = tqdm(dataset["images"], leave=False, disable=None)
        # Decoding lets go of Python's lock.
        with ThreadPool() as threads:
            checked = threads.imap(partial(check_image, image_root=images), entries)
            problems += [problem for problem in checked if problem]
    order = list(KINDS)
    return {**sizes, "problems": sorted(problems, key=lambda problem: order.index(problem.kind))}


def _among_images(json_file: str, dataset: Any) -> str:
    """The file's folder where its first image is there too, as Roboflow leaves them; else empty."""
    folder = os.path.dirname(os.path.abspath(json_file))
    with suppress(AttributeError, IndexError, KeyError, TypeError):  # `check` says what is wrong
        return folder if os.path.isfile(os.path.join(folder, dataset["images"][0]["file_name"])) else ""
    return ""


def _length(dataset: Any, key: str) -> int:
    value = dataset.get(key) if isinstance(dataset, dict) else None
    return len(value) if isinstance(value, list) else 0


def as_text(json_file: str, problems: Sequence[Problem]) -> str:
    lines = []
    counts: Counter[str] = Counter()
    for kind, where, reason in problems:
        counts[kind] += 1
        if counts[kind] <= LINES:
            lines.append(f"{json_file}: {where}: {kind}: {reason}")
    lines += [f"{json_file}: {n - LINES} more {kind}" for kind, n in counts.items() if n > LINES]
    rows = [(kind, n, *KINDS[kind]) for kind, n in counts.items()]
    return "\n".join([*lines, "", tabulate(rows, ("kind", "number", "done", "what")), ""])


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "annotations", metavar="ANNOTATIONS", help="a JSON file, or a folder or list of VOC's"
    )
    parser.add_argument(
        "images", metavar="IMAGES", nargs="?", help="the folder of the images; VOC knows its own"
    )
    parser.add_argument(
        "--train", metavar="ANNOTATIONS", help="of the training set, for a test set's classes and images"
    )
    parser.add_argument(
        "--train-images",
        metavar="IMAGES",
        help="of the training set; by default its file's folder if they are there, else IMAGES",
    )
    parser.add_argument("--crowds-as-objects", action="store_true", help="as dataset.crowds_as_objects=true")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    for name, number, what in (
        ("queries", 60, "the queries of configs/custom/tiny_cpu.py"),
        ("detections", 100, "which are evaluated"),
    ):
        text = f"name images with more boxes than N (default: {number}, {what})"
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N", help=text)
    args = parser.parse_args()
    found = find_problems(args)
    problems = found["problems"]
    if args.json:
        counts = Counter(problem.kind for problem in problems)
        listed = [{**problem._asdict(), "done": problem.done} for problem in problems]
        text = json.dumps({**found, "counts": counts, "problems": listed}, indent=1) + "\n"
    else:
        text = "{images} images, {annotations} annotations, {categories} categories, ".format(**found)
        text += f"problems: {len(problems)}\n"
        text += "\n" + as_text(args.annotations, problems) if problems else ""
    sys.stdout.write(text)
    errors = sum(problem.done == ERROR for problem in problems)
    if errors:
        raise UserError(
            f"{args.annotations}: {errors} errors, which training and evaluation cannot work with"
        )


if __name__ == "__main__":
    main()
