"""A picture that lays ground truth and detections side by side."""

from __future__ import annotations

import colorsys
import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image, ImageColor, ImageDraw, ImageFont

from lors.data.images import is_readable, read_image

PANEL = 320
# Room around the image, so that labels of boxes at its edge still fit.
MARGIN = 18
CAPTION = 26
GAP = 20
BACKGROUND = (24, 24, 24)
COLOURS = (
    "#e6194b #3cb44b #ffe119 #4363f8 #f58231 #b040e0 #42d4f4 #f032e6 #bfef45 #fabed4 #2f9e94 #c08040"
).split()
LABEL_FONT = ImageFont.load_default(size=13)
CAPTION_FONT = ImageFont.load_default(size=16)

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
        detected = _detections(instances, names, score_threshold)
        cells.append(_draw_cell(image, truth, detected))
    _save(_tile(cells, columns), Path(path))


def _truth(image_dict: dict, names: list[str]) -> list[LabelledBox]:
    boxes = []
    for annotation in image_dict.get("annotations", []):
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        label = annotation["category_id"]
        boxes.append(LabelledBox(tuple(box), names[label], label))
    return boxes


def _detections(instances: Instances, names: list[str], threshold: float) -> list[LabelledBox]:
    instances = instances.to("cpu")
    instances = instances[instances.scores >= threshold]
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
    width, height = (max(1, round(side * scale)) for side in image.size)
    size = (width + 2 * MARGIN, height + 2 * MARGIN + CAPTION)
    panel = Image.new("RGB", size, BACKGROUND)
    panel.paste(image.resize((width, height), Image.Resampling.BICUBIC), (MARGIN, MARGIN + CAPTION))
    draw = ImageDraw.Draw(panel)
    draw.text((MARGIN, 6), caption, fill="white", font=CAPTION_FONT)

    on_panel = [_to_panel(labelled.box, scale) for labelled in boxes]
    for box, labelled in zip(on_panel, boxes):
        draw.rectangle(box, outline=_colour(labelled.label), width=2)
    area = (0, CAPTION, *size)
    taken: list[Box] = []
    for box, labelled in zip(on_panel, boxes):
        place = _place_label(box, labelled.text, taken + on_panel, area)
        taken.append(place)
        _draw_label(draw, place, labelled)
    return panel


def _to_panel(box: Box, scale: float) -> Box:
    """Scale a box, and grow it so that its outline runs outside what it encloses."""
    x0, y0, x1, y1 = (scale * side for side in box)
    y0, y1 = y0 + CAPTION, y1 + CAPTION
    return x0 + MARGIN - 3, y0 + MARGIN - 3, x1 + MARGIN + 2, y1 + MARGIN + 2


def _place_label(box: Box, text: str, taken: list[Box], area: Box) -> Box:
    """Choose the place beside ``box``, within ``area``, that covers the least of ``taken``."""
    x0, y0, x1, y1 = box
    width, height = LABEL_FONT.getlength(text) + 4, 15
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


def _draw_label(draw: ImageDraw.ImageDraw, place: Box, labelled: LabelledBox) -> None:
    colour = _colour(labelled.label)
    red, green, blue = colour
    is_light = 0.3 * red + 0.6 * green + 0.1 * blue > 120
    draw.rectangle(place, fill=colour)
    middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
    draw.text(middle, labelled.text, fill="black" if is_light else "white", font=LABEL_FONT, anchor="mm")


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


def _save(sheet: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        unfinished = Path(scratch) / "sheet.png"
        sheet.save(unfinished)
        os.replace(unfinished, path)
