"""Pictures of detections: alone, or beside the ground truth."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from lors.data.images import BadImage, read_image
from lors.errors import UserError
from lors.training.files import replacing

logger = logging.getLogger(__name__)

# The longer side of an image beside another, and at least of one alone.
PANEL, ALONE = 480, 640
CAPTION, GAP = 26, 10
BACKGROUND = (24, 24, 24)
# Detections with a lower score are not laid beside the truth.
SURE = 0.4
# Lines and labels are meant for pictures up to this size and grow with larger ones.
GROW_FROM = 1000


def draw_results(dataset: str, results: str | os.PathLike, path: str | os.PathLike, images: int = 8) -> None:
    """Draw what an evaluation left behind, the ground truth left, the detections right.

    Drawn are images from all over the dataset, those with annotations before the others.

    Args:
        dataset: its name in Detectron2's catalogs.
        results: COCO's results JSON, as `COCOEvaluator` writes it.
        path: the PNG file to write, replaced at once if it exists.

    Raises:
        UserError: no image can be read.
    """
    metadata = MetadataCatalog.get(dataset)
    indices = metadata.thing_dataset_id_to_contiguous_id
    sure = [result for result in json.loads(Path(results).read_text()) if result["score"] >= SURE]
    panels: list[Image.Image] = []
    for record in _spread(DatasetCatalog.get(dataset), images):
        if len(panels) == 2 * images:
            break
        try:
            image = Image.fromarray(read_image(record["file_name"]))
        except BadImage:
            continue
        detected = [
            {**result, "bbox_mode": BoxMode.XYWH_ABS, "category_id": indices[result["category_id"]]}
            for result in sure
            if result["image_id"] == record["image_id"]
        ]
        for objects in (record["annotations"], detected):
            panels.append(_draw(image, objects, metadata.thing_classes, PANEL / max(image.size)))
    if not panels:
        raise UserError(f"dataset {dataset}: there is no image to draw that can be read")
    save(_arrange(panels), path)


def _spread(records: Sequence[dict], number: int) -> list[dict]:
    """In such an order that the first `number` are from all over; without annotations come last."""
    order = sorted(records, key=lambda record: not record["annotations"])
    step = max(1, sum(bool(record["annotations"]) for record in records) // number)
    return [record for first in range(step) for record in order[first::step]]


def draw_detections(image: Image.Image, instances: Instances, names: Sequence[str]) -> Image.Image:
    """Return the image with a box, a class name and a score for each detection, the first ones on top.

    A small image is enlarged, so that labels can be read.

    Args:
        instances: with ``pred_boxes`` (in pixels of the image), ``scores`` and ``pred_classes``.
        names: of the classes.
    """
    fields = (instances.pred_boxes.tensor, instances.pred_classes, instances.scores)
    objects = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "score": score}
        for box, label, score in zip(*(field.tolist() for field in fields))
    ]
    return _draw(image.convert("RGB"), objects, names, max(1, ALONE / max(image.size)))


def save(picture: Image.Image, path: str | os.PathLike) -> None:
    """Write a picture in the format that the path ends in, replaced at once if it exists."""
    with replacing(path) as unfinished:
        picture.save(unfinished, quality=95)


def _draw(image: Image.Image, objects: Sequence[dict], names: Sequence[str], scale: float) -> Image.Image:
    """Return the image, `scale` times as large, with Detectron2's annotations, which may have a ``score``."""
    width, height = (max(1, round(side * scale)) for side in image.size)
    picture = image.resize((width, height), Image.Resampling.BICUBIC)
    draw, unit = ImageDraw.Draw(picture), max(1, max(width, height) / GROW_FROM)
    font = ImageFont.truetype(_font("".join(names)), round(12 * unit))
    corners = [BoxMode.convert(found["bbox"], found["bbox_mode"], BoxMode.XYXY_ABS) for found in objects]
    boxes = Boxes(torch.tensor(corners).view(-1, 4) * scale)
    boxes.clip((height - 1, width - 1))
    # What is drawn last is on top.
    drawn = list(zip(boxes.tensor.tolist(), objects))[::-1]
    for box, found in drawn:
        draw.rectangle(box, outline=_colour(found["category_id"]), width=round(2 * unit))
    for (left, top, _, _), found in drawn:
        text = names[found["category_id"]] + (f" {found['score']:.2f}" if "score" in found else "")
        # Above the box, so as not to hide what is in it, but within the picture.
        wide, high = font.getlength(text) + 4 * unit, 15 * unit
        left, bottom = max(0, min(left, width - wide)), max(top, high)
        draw.rectangle((left, bottom - high, left + wide, bottom), fill=_colour(found["category_id"]))
        middle = (left + wide / 2, bottom - high / 2)
        draw.text(middle, text, fill="black", font=font, anchor="mm")
    return picture


@cache
def _font(text: str) -> str:
    """The file of a font that has all letters: DejaVu Sans (Latin, Cyrillic, Greek), or one of the system."""
    dejavu = font_manager.findfont("DejaVu Sans")
    letters = {ord(letter) for letter in text if not letter.isspace()}
    for file in (dejavu, *sorted(font_manager.findSystemFonts())):
        if file.endswith((".ttf", ".otf")) and letters <= set(font_manager.get_font(file).get_charmap()):
            return file
    logger.warning("No font here has all letters of the class names; pictures show empty boxes for some")
    return dejavu


def _colour(label: int) -> str:
    """A class's own colour, on which black can be read."""
    # Multiples of the golden angle never come back to an old hue.
    return f"hsl({label * 137.508 % 360:.2f}, 90%, 65%)"


def _arrange(panels: Sequence[Image.Image]) -> Image.Image:
    """Lay out the truth and the detections of two images in each row."""
    columns, rows = min(4, len(panels)), -(-len(panels) // 4)
    width, height = PANEL + GAP, CAPTION + max(panel.height for panel in panels)
    sheet = Image.new("RGB", (columns * width - GAP, rows * height), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(_font(""), 14)
    for i, panel in enumerate(panels):
        x, y = i % 4 * width, i // 4 * height
        draw.text((x, y + 6), ("truth", "detected")[i % 2], fill="white", font=font)
        sheet.paste(panel, (x, y + CAPTION))
    return sheet
