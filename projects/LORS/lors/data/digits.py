"""Quick-start detection data: scikit-learn's handwritten digits on cluttered grey canvases."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lors.data.coco import register_coco

logger = logging.getLogger(__name__)

SEED = 20260101
NUM_IMAGES = {"train": 4000, "test": 200, "val": 400}
# Each split draws on digits of its own: of the shuffled sources, these.
SOURCES = {"train": slice(597, None), "test": slice(0, 397), "val": slice(397, 597)}
CANVAS = 160
MIN_DIGITS, MAX_DIGITS = 3, 8
MIN_HEIGHT, MAX_HEIGHT = 12, 48
MAX_ANGLE = 10.0
MAX_STRETCH = 0.15
# At most this share of the smaller of two boxes is covered, so their IoU stays below 0.15.
MAX_COVER = 0.25
PLACING_TRIES = 30
# A pixel is ink where the digit's opacity (0..255) is above this.
INK = 80

YS, XS = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float64)


class Digit(NamedTuple):
    """A digit on a canvas: its opacity, uint8 (h, w), and its top left pixel and label."""

    mask: np.ndarray
    x: int
    y: int
    label: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box, (x, y, width, height) in pixels."""
        return self.x, self.y, self.mask.shape[1], self.mask.shape[0]


def register_digits(split: str) -> str:
    """Register ``lors_digits_train``, ``lors_digits_val`` or ``lors_digits_test``, made on first use.

    The data lies in ``$DETECTRON2_DATASETS/lors_digits``. What is chosen is chosen on "val", so that "test"
    stays unseen.
    """
    if split not in SOURCES:
        raise ValueError(f"split must be one of {', '.join(SOURCES)}, not {split!r}")
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "lors_digits"
    write_dataset(root, NUM_IMAGES)
    return register_coco(str(root / f"{split}.json"), str(root / split), f"lors_digits_{split}")


def write_dataset(root: Path, num_images: dict[str, int]) -> None:
    """Write ``SPLIT.json`` and the folder ``SPLIT`` with ``num_images[SPLIT]`` images, for each split.

    Does nothing where they are already there.
    """
    if not (root.is_dir() and any(root.iterdir())):
        logger.info("Making the digits dataset in %s (once, about half a minute)", root)
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as scratch:
            made = Path(scratch) / root.name
            for split, number in num_images.items():
                _write_split(made, split, number)
            # It fails where another process finished first, with the same data.
            with contextlib.suppress(OSError):
                os.rename(made, root)
    for split in num_images:
        if not (root / f"{split}.json").is_file() or not (root / split).is_dir():
            raise FileExistsError(f"{root} exists but has no {split} data: remove it and try again")


def _write_split(root: Path, split: str, num_images: int) -> None:
    sources, labels = load_sources(split)
    (root / split).mkdir(parents=True)
    images, annotations = [], []
    for index in range(num_images):
        rng = image_rng(split, index)
        digits = place_digits(rng, sources, labels)
        file_name = f"{index:06d}.png"
        Image.fromarray(draw_image(rng, digits)).save(root / split / file_name)
        images.append({"id": index, "file_name": file_name, "height": CANVAS, "width": CANVAS})
        for digit in digits:
            of = {"id": len(annotations) + 1, "image_id": index, "category_id": digit.label + 1}
            annotations.append({**of, "bbox": digit.box, "area": digit.mask.size, "iscrowd": 0})
    content = {
        "info": {"description": "scikit-learn's handwritten digits on cluttered canvases"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(10)],
    }
    (root / f"{split}.json").write_text(json.dumps(content, sort_keys=True), encoding="utf-8")


def image_rng(split: str, index: int) -> np.random.RandomState:
    # RandomState, because numpy promises the same stream in every version only for it.
    return np.random.RandomState([SEED, list(SOURCES).index(split), index])


def split_sources(split: str, num_sources: int) -> np.ndarray:
    """Return the indices of the source digits that the split may use."""
    return np.random.RandomState(SEED).permutation(num_sources)[SOURCES[split]]


def load_sources(split: str) -> tuple[list[Image.Image], list[int]]:
    """Return the split's source digits, smoothly enlarged to 96 x 96 pixels, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    chosen = split_sources(split, len(data.images))
    sources = [_enlarge(data.images[i]) for i in chosen]
    return sources, [int(data.target[i]) for i in chosen]


def _enlarge(pixels: np.ndarray) -> Image.Image:
    """Turn an 8 x 8 array with values 0..16 into a grey picture with clear strokes."""
    framed = np.pad(pixels * 255 / 16, 2).astype(np.uint8)
    smooth = Image.fromarray(_resize(framed, 96, 96))
    return smooth.point([min(255, max(0, (value - 60) * 2)) for value in range(256)])


def place_digits(rng: np.random.RandomState, sources: list[Image.Image], labels: list[int]) -> list[Digit]:
    """Draw digits, sizes and places for one canvas; boxes overlap a little at most."""
    placed: list[Digit] = []
    for _ in range(rng.randint(MIN_DIGITS, MAX_DIGITS + 1)):
        which = rng.randint(len(sources))
        mask = render_digit(rng, sources[which])
        height, width = mask.shape
        for _ in range(PLACING_TRIES):
            x, y = rng.randint(CANVAS - width + 1), rng.randint(CANVAS - height + 1)
            digit = Digit(mask, int(x), int(y), labels[which])
            if all(_cover(digit.box, other.box) <= MAX_COVER for other in placed):
                placed.append(digit)
                break
    return placed


def render_digit(rng: np.random.RandomState, source: Image.Image) -> np.ndarray:
    """Return the opacity of a slightly turned and stretched digit, uint8 (h, w).

    The array is tight: its first and last rows and columns all have ink.
    """
    while True:
        turned = source.rotate(rng.uniform(-MAX_ANGLE, MAX_ANGLE), Image.Resampling.BICUBIC)
        tight = _crop_to_ink(np.asarray(turned))
        height = round(MIN_HEIGHT * (MAX_HEIGHT / MIN_HEIGHT) ** rng.random_sample())
        stretch = rng.uniform(1 - MAX_STRETCH, 1 + MAX_STRETCH)
        width = max(2, round(height * stretch * tight.shape[1] / tight.shape[0]))
        mask = _resize(tight, width, height)
        # Shrinking fades a thin tip below the ink threshold now and then.
        if _crop_to_ink(mask).shape == mask.shape:
            return mask


def _resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize uint8 (h, w) pixels smoothly."""
    # One side at a time: Pillow's versions differ in which side they do first, and so in rounding.
    wide = Image.fromarray(pixels).resize((width, pixels.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC))


def _crop_to_ink(pixels: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(pixels > INK)
    return np.ascontiguousarray(pixels[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])


def _cover(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection of two (x, y, w, h) boxes over the smaller one's area."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height) / min(a[2] * a[3], b[2] * b[3])


def draw_image(rng: np.random.RandomState, digits: list[Digit]) -> np.ndarray:
    """Return the canvas with clutter, digits and noise, uint8 (160, 160)."""
    canvas = draw_clutter(rng)
    for digit in digits:
        ink_digit(rng, canvas, digit)
    strength = rng.uniform(1.0, 5.0)
    canvas += strength * rng.uniform(-2, 2, canvas.shape)
    return np.clip(canvas, 0, 255).round().astype(np.uint8)


def draw_clutter(rng: np.random.RandomState) -> np.ndarray:
    """Return a smooth background with blobs and long curves, float (160, 160) around 0..255."""
    low, high = rng.randint(50, 130), rng.randint(130, 210)
    grid = rng.randint(low, high, (4, 4)).astype(np.uint8)
    canvas = _resize(grid, CANVAS, CANVAS).astype(np.float64)
    for _ in range(rng.randint(1, 5)):
        canvas += _contrast(rng, 10, 45) * _blob(rng)
    for _ in range(rng.randint(2, 7)):
        canvas += _contrast(rng, 15, 60) * _curve(rng)
    return canvas


def ink_digit(rng: np.random.RandomState, canvas: np.ndarray, digit: Digit) -> None:
    """Paint a digit in place, lighter or darker than what is under it."""
    x, y, width, height = digit.box
    under = canvas[y : y + height, x : x + width]
    level = under.mean() + _contrast(rng, 50, 120)
    if not 0 <= level <= 255:
        level = 2 * under.mean() - level
    opacity = digit.mask / 255.0
    under += opacity * (level - under)


def _contrast(rng: np.random.RandomState, low: float, high: float) -> float:
    return rng.choice([-1, 1]) * rng.uniform(low, high)


def _blob(rng: np.random.RandomState) -> np.ndarray:
    """Return the opacity (0..1) of a filled ellipse with soft edges, float (160, 160)."""
    x, y = rng.uniform(0, CANVAS, 2)
    a, b = rng.uniform(6, 35, 2)
    inside = 1 - ((XS - x) / a) ** 2 - ((YS - y) / b) ** 2
    return np.clip(3 * inside, 0, 1)


def _curve(rng: np.random.RandomState) -> np.ndarray:
    """Return the opacity (0..1) of a long arc, larger than any digit, float (160, 160)."""
    radius = rng.uniform(50, 300)
    # A pixel that the arc passes through, and the direction from there to the centre.
    x, y = rng.uniform(0, CANVAS, 2)
    dx, dy = rng.uniform(-1, 1, 2)
    scale = radius / max(1e-6, (dx * dx + dy * dy) ** 0.5)
    distance = np.sqrt((XS - x - scale * dx) ** 2 + (YS - y - scale * dy) ** 2) - radius
    return np.clip(rng.uniform(1.0, 2.5) - np.abs(distance), 0, 1)
