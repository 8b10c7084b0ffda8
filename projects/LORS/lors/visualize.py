"""Pictures of detections: alone, or beside the ground truth."""

from __future__ import annotations

import colorsys
import functools
import itertools
import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image, ImageColor, ImageDraw, ImageFont

from lors.data.images import is_readable, read_image
from lors.files import replacing

# The longer side of an image beside another, and at least of one alone.
PANEL, ALONE = 320, 640
# Room around the image, so that labels of boxes at its edge still fit.
MARGIN = 18
CAPTION = 26
GAP = 20
BACKGROUND = (24, 24, 24)
COLOURS = (
    "#e6194b #3cb44b #ffe119 #4363f8 #f58231 #b040e0 #42d4f4 #f032e6 #bfef45 #fabed4 #2f9e94 #c08040"
).split()
# Lines and labels are meant for pictures up to this size and grow with larger ones.
GROW_FROM = 1000

# Left, top, right, bottom, in pixels.
Box = tuple[float, float, float, float]


class LabelledBox(NamedTuple):
    """A box in image pixels, the text to write beside it and its class index."""

    box: Box
    text: str
    label: int


def draw_results(dataset: str, results: str | os.PathLike, path: str | os.PathLike, images: int = 8) -> None:
    """Draw what an evaluation left behind, for the first images of a dataset that can be read.

    Those with annotations come first.

    Args:
        dataset: its name in Detectron2's catalogs.
        results: COCO's results JSON, as `COCOEvaluator` writes it.
        path: the PNG file to write.
    """
    metadata = MetadataCatalog.get(dataset)
    # The sort keeps the order among those with annotations and among those without.
    records = sorted(DatasetCatalog.get(dataset), key=lambda image: not image["annotations"])
    readable = (image for image in records if is_readable(image["file_name"]))
    chosen = list(itertools.islice(readable, images))
    found: dict[int, list[dict]] = {image["image_id"]: [] for image in chosen}
    for result in json.loads(Path(results).read_text()):
        if result["image_id"] in found:
            found[result["image_id"]].append(result)
    ids = metadata.thing_dataset_id_to_contiguous_id
    predictions = []
    for image in chosen:
        detected = found[image["image_id"]]
        boxes = torch.tensor([result["bbox"] for result in detected]).view(-1, 4)
        predictions.append(
            Instances(
                (image["height"], image["width"]),
                pred_boxes=Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)),
                scores=torch.tensor([result["score"] for result in detected]),
                pred_classes=torch.tensor([ids[result["category_id"]] for result in detected]).long(),
            )
        )
    draw_comparison(chosen, predictions, metadata, path)


def draw_detections(image: Image.Image, instances: Instances, names: list[str]) -> Image.Image:
    """Return the image with a box, a class name and a score for each detection, the first ones on top.

    A small image is enlarged, so that labels can be read.

    Args:
        instances: with ``pred_boxes`` (in pixels of the image), ``scores`` and ``pred_classes``.
        names: of the classes.
    """
    scale = max(1, ALONE / max(image.size))
    picture = _scaled(image.convert("RGB"), scale)
    _draw_boxes(picture, _detections(instances, names), scale)
    return picture


def save(picture: Image.Image, path: str | os.PathLike) -> None:
    """Write a picture in the format that the path ends in, replaced at once if it exists."""
    with replacing(path) as unfinished:
        picture.save(unfinished, quality=95)


def draw_comparison(
    dataset_dicts: list[dict],
    predictions: list[Instances],
    metadata: Metadata,
    path: str | os.PathLike,
    score_threshold: float = 0.4,
    columns: int = 2,
) -> None:
    """Write a PNG with one cell per image: the ground truth left, the detections right.

    Args:
        dataset_dicts: images in Detectron2's standard format, with ``annotations``.
        predictions: for each image, ``Instances`` with ``pred_boxes`` (in pixels of the original
            image), ``scores`` and ``pred_classes``.
        metadata: names the classes in ``thing_classes``.
        path: the PNG file to write, replaced at once if it exists.
        score_threshold: detections with a lower score are left out.
        columns: the number of cells in a row.
    """
    if not dataset_dicts or len(dataset_dicts) != len(predictions):
        raise ValueError(
            f"need as many predictions as images, at least one:"
            f" {len(dataset_dicts)} images, {len(predictions)} predictions"
        )
    names = metadata.thing_classes
    cells = []
    for image_dict, instances in zip(dataset_dicts, predictions):
        image = Image.fromarray(read_image(image_dict["file_name"]))
        truth = _truth(image_dict, names)
        detected = _detections(instances[instances.scores >= score_threshold], names)
        cells.append(_draw_cell(image, truth, detected))
    save(_tile(cells, columns), path)


def _truth(image_dict: dict, names: list[str]) -> list[LabelledBox]:
    boxes = []
    for annotation in image_dict.get("annotations", []):
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        label = annotation["category_id"]
        boxes.append(LabelledBox(tuple(box), names[label], label))
    return boxes


def _detections(instances: Instances, names: list[str]) -> list[LabelledBox]:
    return [
        LabelledBox(tuple(box), f"{names[label]} {score:.2f}", label)
        for box, score, label in zip(
            instances.pred_boxes.tensor.tolist(),
            instances.scores.tolist(),
            instances.pred_classes.tolist(),
        )
    ]


def _draw_cell(image: Image.Image, truth: list[LabelledBox], detected: list[LabelledBox]) -> Image.Image:
    left = _draw_panel(image, truth, "truth")
    right = _draw_panel(image, detected, "detected")
    cell = Image.new("RGB", (left.width + right.width, left.height), BACKGROUND)
    cell.paste(left, (0, 0))
    cell.paste(right, (left.width, 0))
    return cell


def _draw_panel(image: Image.Image, boxes: list[LabelledBox], caption: str) -> Image.Image:
    scale = PANEL / max(image.size)
    image = _scaled(image, scale)
    panel = Image.new("RGB", (image.width + 2 * MARGIN, image.height + 2 * MARGIN + CAPTION), BACKGROUND)
    panel.paste(image, (MARGIN, MARGIN + CAPTION))
    ImageDraw.Draw(panel).text((MARGIN, 6), caption, fill="white", font=_font(16))
    _draw_boxes(panel, boxes, scale, origin=(MARGIN, MARGIN + CAPTION), top=CAPTION)
    return panel


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.BICUBIC)


def _draw_boxes(
    picture: Image.Image,
    boxes: list[LabelledBox],
    scale: float,
    origin: tuple[int, int] = (0, 0),
    top: int = 0,
) -> None:
    """Draw boxes of an image that lies in the picture at ``origin``, ``scale`` times as large.

    No label is higher than ``top``.
    """
    unit = max(1, max(picture.size) / GROW_FROM)
    draw = ImageDraw.Draw(picture)
    on_picture = [_to_picture(labelled.box, scale, origin, unit, picture.size) for labelled in boxes]
    for box, labelled in zip(reversed(on_picture), reversed(boxes)):
        draw.rectangle(box, outline=_colour(labelled.label), width=round(2 * unit))
    font = _font(round(13 * unit))
    places: list[Box] = []
    for box, labelled in zip(on_picture, boxes):
        size = (font.getlength(labelled.text) + 4 * unit, 15 * unit)
        places.append(_place_label(box, size, places + on_picture, (0, top, *picture.size)))
    for place, labelled in zip(reversed(places), reversed(boxes)):
        _draw_label(draw, place, labelled, font)


def _to_picture(box: Box, scale: float, origin: tuple[int, int], unit: float, size: tuple[int, int]) -> Box:
    """Scale and move a box, and grow it so that its outline runs outside what it encloses."""
    moved = (scale * side + start for side, start in zip(box, (*origin, *origin)))
    grown = (side + by * unit for side, by in zip(moved, (-3, -3, 2, 2)))
    return tuple(min(max(side, 0), limit - 1) for side, limit in zip(grown, (*size, *size)))


def _place_label(box: Box, size: tuple[float, float], taken: list[Box], area: Box) -> Box:
    """Choose the place beside ``box``, within ``area``, that covers the least of ``taken``."""
    x0, y0, x1, y1 = box
    width, height = size
    corners = [(x, y) for y in (y0 - height, y1 + 1) for x in (x0, x1 - width, (x0 + x1 - width) / 2)]
    corners += [(x, y) for x in (x1 + 1, x0 - width) for y in (y0, y1 - height, (y0 + y1 - height) / 2)]
    places = []
    for x, y in corners:
        x = max(area[0], min(x, area[2] - width))
        y = max(area[1], min(y, area[3] - height))
        places.append((x, y, x + width, y + height))
    return min(places, key=lambda place: sum(_shared_area(place, other) for other in taken))


def _shared_area(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _draw_label(
    draw: ImageDraw.ImageDraw, place: Box, labelled: LabelledBox, font: ImageFont.FreeTypeFont
) -> None:
    colour = _colour(labelled.label)
    red, green, blue = colour
    is_light = 0.3 * red + 0.6 * green + 0.1 * blue > 120
    draw.rectangle(place, fill=colour)
    middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
    draw.text(middle, labelled.text, fill="black" if is_light else "white", font=font, anchor="mm")


def _colour(label: int) -> tuple[int, int, int]:
    """Return a class's colour: one of a few that differ most, after those ever new hues."""
    if label < len(COLOURS):
        return ImageColor.getrgb(COLOURS[label])
    # Multiples of the golden ratio never come back to an old hue.
    red, green, blue = colorsys.hls_to_rgb(label * 0.618034 % 1, 0.6, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _tile(cells: list[Image.Image], columns: int) -> Image.Image:
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    width = max(cell.width for cell in cells)
    heights = [max(cell.height for cell in row) for row in rows]
    size = (min(columns, len(cells)) * (width + GAP) - GAP, sum(heights))
    sheet = Image.new("RGB", size, BACKGROUND)
    y = 0
    for row, height in zip(rows, heights):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * (width + GAP), y))
        y += height
    return sheet
