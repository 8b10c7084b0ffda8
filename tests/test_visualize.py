"""The picture beside an evaluation, and detections alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from lors.data import register_coco
from lors.visualize import ALONE, BACKGROUND, CAPTION, GAP, PANEL, draw_detections, draw_results

# width, height; of the third there is no file, and the fourth has no annotations.
SIZES = [(160, 80), (40, 80), (50, 50), (80, 80)]
GREY = (90, 90, 90)


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "images").mkdir()
    for i, size in enumerate(SIZES):
        if i != 2:
            Image.new("RGB", size, GREY).save(tmp_path / "images" / f"{i}.png")
    content = {
        "info": {},
        "images": [
            {"id": 10 + i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(SIZES)
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 10 + i,
                "category_id": 7,
                "bbox": [5, 5, 20, 30],
                "area": 600,
                "iscrowd": 0,
            }
            for i in range(3)
        ],
        "categories": [{"id": 7, "name": "cup"}, {"id": 3, "name": "pen"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    name = register_coco(str(tmp_path / "truth.json"), str(tmp_path / "images"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def draw(dataset: str, folder: Path, detections: list[dict], **kwargs) -> np.ndarray:
    (folder / "results.json").write_text(json.dumps(detections))
    draw_results(dataset, folder / "results.json", folder / "out" / "sheet.png", **kwargs)
    assert [file.name for file in (folder / "out").iterdir()] == ["sheet.png"]
    with Image.open(folder / "out" / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.mode == "RGB"
        return np.asarray(sheet)


def detection(image: int, score: float = 0.9, category: int = 3) -> dict:
    return {"image_id": image, "category_id": category, "bbox": [60.0, 40.0, 30.0, 20.0], "score": score}


def panel(sheet: np.ndarray, place: int, size: tuple[int, int]) -> np.ndarray:
    """One of the images on the sheet, from left to right and from top to bottom."""
    scale = PANEL / max(size)
    row, column = divmod(place, 4)
    x, y = column * (PANEL + GAP), row * (PANEL + CAPTION) + CAPTION
    return sheet[y : y + round(size[1] * scale), x : x + round(size[0] * scale)]


def drawn(picture: np.ndarray) -> np.ndarray:
    """Where the picture is not as the image was."""
    return (picture != GREY).any(axis=2)


def test_the_first_readable_images_truth_left_detections_right(dataset, tmp_path):
    sheet = draw(dataset, tmp_path, [])
    assert sheet.shape == (2 * (PANEL + CAPTION), 4 * (PANEL + GAP) - GAP, 3)
    for place, size in enumerate((SIZES[0], SIZES[0], SIZES[1], SIZES[1], SIZES[3], SIZES[3])):
        # All of an image but the two with annotations is as it was.
        assert drawn(panel(sheet, place, size)).any() == (place in (0, 2))
        assert not drawn(panel(sheet, place, size)[-1:]).any()
    assert (sheet[CAPTION:, PANEL : PANEL + GAP] == BACKGROUND).all()
    for place in range(6):
        x, y = place % 4 * (PANEL + GAP), place // 4 * (PANEL + CAPTION)
        assert (sheet[y : y + CAPTION, x : x + PANEL] != BACKGROUND).any()
    alone = draw(dataset, tmp_path, [], images=1)
    assert alone.shape == (PANEL // 2 + CAPTION, 2 * PANEL + GAP, 3)
    assert (panel(alone, 0, SIZES[0]) == panel(sheet, 0, SIZES[0])).all()


def test_the_images_are_from_all_over_a_large_dataset(tmp_path):
    grey = [40 * i for i in range(6)]
    images = [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 20} for i in range(6)]
    for i, value in enumerate(grey):
        Image.new("RGB", (20, 20), (value,) * 3).save(tmp_path / f"{i}.png")
    box = {"category_id": 7, "bbox": [2, 2, 4, 4], "area": 16, "iscrowd": 0}
    content = {
        "info": {},
        "images": images,
        "annotations": [{**box, "id": i + 1, "image_id": i} for i in range(6)],
        "categories": [{"id": 7, "name": "cat"}],
    }
    (tmp_path / "test.json").write_text(json.dumps(content))
    dataset = register_coco(str(tmp_path / "test.json"), str(tmp_path))
    sheet = draw(dataset, tmp_path, [], images=3)
    DatasetCatalog.remove(dataset)
    MetadataCatalog.remove(dataset)
    shown = [panel(sheet, place, (20, 20))[-1, -1, 0] for place in (0, 2, 4)]
    assert shown == [grey[0], grey[2], grey[4]]


def test_truth_and_detections_are_where_their_boxes_are(dataset, tmp_path):
    sheet = draw(dataset, tmp_path, [detection(10)])
    # The image is enlarged three times; boxes are 5, 5, 20, 30 and 60, 40, 30, 20.
    for place, (x0, y0, x1, y1) in ((0, (15, 15, 75, 105)), (1, (180, 120, 270, 180))):
        there = drawn(panel(sheet, place, SIZES[0]))
        assert there[y0:y1, x0].all() and there[y0:y1, x1].all()
        assert there[y0, x0:x1].all() and there[y1, x0:x1].all()
        assert not there[y0 + 3 : y1 - 2, x0 + 3 : x1 - 2].any()
        assert not there[y1 + 1 :].any() and not there[:, :x0].any()
    assert not drawn(panel(sheet, 3, SIZES[1])).any()


def test_unsure_detections_are_left_out_and_classes_have_colours(dataset, tmp_path):
    assert not drawn(panel(draw(dataset, tmp_path, [detection(10, score=0.39)]), 1, SIZES[0])).any()
    pen, cup = (draw(dataset, tmp_path, [detection(10, category=c)]) for c in (3, 7))
    outline = (150, 180)
    assert (panel(pen, 1, SIZES[0])[outline] != panel(cup, 1, SIZES[0])[outline]).any()
    # The truth's class has the same colour.
    assert (panel(cup, 0, SIZES[0])[60, 15] == panel(cup, 1, SIZES[0])[outline]).all()


def test_without_an_image_to_draw(dataset, tmp_path):
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="no image"):
        draw(dataset, tmp_path, [])
    assert not (tmp_path / "out").exists()


def draw_alone(size: tuple[int, int], boxes: list[list[float]], labels: list[int]) -> np.ndarray:
    instances = Instances(
        size[::-1],
        pred_boxes=Boxes(torch.tensor(boxes).view(-1, 4)),
        scores=torch.linspace(0.9, 0.5, len(boxes)),
        pred_classes=torch.tensor(labels).long(),
    )
    names = [str(number) for number in range(100)]
    return np.asarray(draw_detections(Image.new("L", size, GREY[0]), instances, names))


@pytest.mark.parametrize("size, scale", [((160, 80), ALONE / 160), ((900, 700), 1), ((1, 1), ALONE)])
def test_a_small_image_alone_is_enlarged_and_a_large_one_is_not(size, scale):
    picture = draw_alone(size, [], [])
    assert picture.shape == (size[1] * scale, size[0] * scale, 3)
    assert not drawn(picture).any()


@pytest.mark.parametrize("size, scale", [((160, 80), 4), ((4000, 3000), 1)])
def test_lines_and_labels_grow_with_the_picture(size, scale):
    x0, y0, x1, y1 = box = [size[0] / 4, size[1] / 2, size[0] / 2, size[1] * 0.75]
    picture = draw_alone(size, [box], [0])
    there = drawn(picture)
    unit = max(1, size[0] / 1000)
    assert there[round((y0 + y1) / 2 * scale)].sum() == 2 * round(2 * unit)
    # The label is above the box, which stays in sight.
    ys, xs = np.nonzero(there)
    assert ys.min() == pytest.approx(y0 * scale - 15 * unit, abs=1)
    black = np.nonzero((picture < 40).all(axis=2))[1]
    assert 25 * unit < black.max() - black.min() < 45 * unit
    assert (xs.min(), xs.max(), ys.max()) == pytest.approx((x0 * scale, x1 * scale, y1 * scale), abs=1)


def test_the_first_detection_is_on_top():
    box = [20.0, 20.0, 60.0, 60.0]
    first, second = draw_alone((160, 80), [box], [0]), draw_alone((160, 80), [box], [1])
    both = draw_alone((160, 80), [box, box], [0, 1])
    assert (both[160, 80] == first[160, 80]).all() and (both[160, 80] != second[160, 80]).any()
    # So is its label.
    assert (both[66:80, 80:110] == first[66:80, 80:110]).all()


def test_every_class_has_its_own_colour():
    colours = {tuple(draw_alone((160, 80), [[20.0, 20.0, 60.0, 60.0]], [i])[160, 80]) for i in range(80)}
    assert len(colours) == 80
    nearest = min(
        np.abs(np.subtract(a, b, dtype=int)).max() for a in list(colours) for b in colours if a != b
    )
    assert nearest >= 3


def test_outlines_and_labels_stay_in_the_picture():
    for box in ([0.0, 0.0, 160.0, 80.0], [-99.0, -99.0, 200.0, 300.0]):
        there = drawn(draw_alone((160, 80), [box], [1]))
        assert there[0].all() and there[-1].all() and there[:, 0].all() and there[:, -1].all()
    # Beyond the right edge and above the top
    there = drawn(draw_alone((160, 80), [[200.0, -9.0, 300.0, -1.0]], [1]))
    assert there[:14, -20:].all(axis=None) and not there[20:].any()
    draw_alone((1, 1), [[0.0, 0.0, 1.0, 1.0], [0.2, 0.2, 0.2, 0.2], [5.0, -5.0, 9.0, 9.0]], [0, 1, 2])
