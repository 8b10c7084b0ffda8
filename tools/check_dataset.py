#!/usr/bin/env python
"""Checks a dataset in COCO format: the annotations, and every image file.

    python tools/check_dataset.py annotations/instances_train.json images
    python tools/check_dataset.py train.json images --queries 100 --json > problems.json

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
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from lors.data.check import KINDS, Problem, check, check_image, read_json
from lors.training.errors import one_line_errors

# Lines of one kind in the readable form.
LINES = 20


def find_problems(json_file: str, image_root: str, num_queries: int | None) -> dict[str, Any]:
    """Sizes of the dataset, and all its problems in the order of `KINDS`."""
    if not os.path.isdir(image_root):
        raise NotADirectoryError(f"IMAGES: {image_root!r} is not a folder")
    dataset = read_json(json_file)
    sizes = {key: _length(dataset, key) for key in ("images", "annotations", "categories")}
    problems = check(dataset, num_queries)
    if sizes["images"]:
        checked = (
            check_image(image, image_root) for image in tqdm(dataset["images"], leave=False, disable=None)
        )
        problems += [problem for problem in checked if problem]
    order = list(KINDS)
    return {**sizes, "problems": sorted(problems, key=lambda problem: order.index(problem.kind))}


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
    parser.add_argument("json_file", metavar="JSON")
    parser.add_argument("image_root", metavar="IMAGES", help="the folder that file_name is relative to")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.add_argument("--queries", type=int, metavar="N", help="name images with more boxes than N queries")
    args = parser.parse_args()
    found = find_problems(args.json_file, args.image_root, args.queries)
    problems = found["problems"]
    if args.json:
        counts = Counter(problem.kind for problem in problems)
        listed = [{**problem._asdict(), "fixed": problem.fixed} for problem in problems]
        text = json.dumps({**found, "counts": counts, "problems": listed}, indent=1) + "\n"
    else:
        text = "{images} images, {annotations} annotations, {categories} categories, ".format(**found)
        text += f"problems: {len(problems)}\n"
        text += "\n" + as_text(args.json_file, problems) if problems else ""
    sys.stdout.write(text)
    errors = sum(not problem.fixed for problem in problems)
    if errors:
        raise ValueError(f"{args.json_file}: {errors} errors, which training and evaluation cannot work with")


if __name__ == "__main__":
    main()
