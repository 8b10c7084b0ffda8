"""The picture beside an evaluation."""

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
from lors.visualize import ALONE, BACKGROUND, CAPTION, GAP, MARGIN, PANEL, draw_detections, draw_results

# width, height
SIZES = [(160, 80), (40, 80)]


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "images").mkdir()
    for i, size in enumerate(SIZES):
        Image.new("RGB", size, (60, 90, 120)).save(tmp_path / "images" / f"{i}.png")
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
            for i in range(2)
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
    with Image.open(folder / "out" / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.mode == "RGB"
        return np.asarray(sheet)


def detection(image: int, score: float = 0.9, category: int = 3) -> dict:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [10.0, 20.0, 15.0, 25.0],
        "score": score,
    }


def test_one_cell_per_image_truth_left_detections_right(dataset, tmp_path):
    sheet = draw(dataset, tmp_path, [])
    # The longer side of each image becomes PANEL; a cell holds two panels.
    wide, tall = 2 * (PANEL + 2 * MARGIN), PANEL + 2 * MARGIN + CAPTION
    assert sheet.shape == (tall, 2 * wide + GAP, 3)
    assert draw(dataset, tmp_path, [], images=1).shape == (
        PANEL // 2 + 2 * MARGIN + CAPTION,
        wide,
        3,
    )
    assert (sheet[:, wide : wide + GAP] == BACKGROUND).all()


def test_a_detection_changes_the_right_panel_of_its_image_alone(dataset, tmp_path):
    empty = draw(dataset, tmp_path, [])
    found = draw(dataset, tmp_path, [detection(10)])
    changed = np.argwhere((empty != found).any(axis=2))
    assert len(changed)
    panel = PANEL + 2 * MARGIN
    assert changed[:, 1].min() >= panel and changed[:, 1].max() < 2 * panel
    # The outline runs outside what it encloses: image pixels x 2.
    left, top = panel + MARGIN + 20, MARGIN + CAPTION + 40
    assert (empty[top, left - 2] != found[top, left - 2]).any()
    assert (
        empty[top + 5 : top + 40, left + 5 : left + 25] == found[top + 5 : top + 40, left + 5 : left + 25]
    ).all()


def test_unsure_detections_are_left_out_and_classes_differ(dataset, tmp_path):
    empty = draw(dataset, tmp_path, [])
    assert (draw(dataset, tmp_path, [detection(11, score=0.3)]) == empty).all()
    pen, cup = (draw(dataset, tmp_path, [detection(11, category=c)]) for c in (3, 7))
    assert (pen != cup).any()


def draw_alone(size: tuple[int, int], boxes: list[list[float]], labels: list[int]) -> np.ndarray:
    instances = Instances(
        size[::-1],
        pred_boxes=Boxes(torch.tensor(boxes).view(-1, 4)),
        scores=torch.linspace(0.9, 0.5, len(boxes)),
        pred_classes=torch.tensor(labels).long(),
    )
    return np.asarray(draw_detections(Image.new("L", size, 90), instances, ["pen", "cup"]))


@pytest.mark.parametrize("size, scale", [((160, 80), ALONE / 160), ((900, 700), 1), ((1, 1), ALONE)])
def test_a_small_image_alone_is_enlarged_and_a_large_one_is_not(size, scale):
    picture = draw_alone(size, [], [])
    assert picture.shape == (size[1] * scale, size[0] * scale, 3)
    assert (picture == 90).all()


def test_detections_alone_are_where_their_boxes_are():
    for size, scale in (((160, 80), 4), ((4000, 3000), 1)):
        x0, y0, x1, y1 = box = [size[0] / 4, size[1] / 2, size[0] / 2, size[1] * 0.75]
        drawn = (draw_alone(size, [box], [0]) != 90).any(axis=2)
        ys, xs = np.nonzero(drawn)
        outline = max(4, size[0] / 1000 * 4)
        assert xs.min() == pytest.approx(x0 * scale, abs=outline)
        assert xs.max() == pytest.approx(x1 * scale, abs=outline)
        inside = drawn[round(y0 * scale) : round(y1 * scale), round(x0 * scale) : round(x1 * scale)]
        assert not inside.any()
        # Lines grow with the picture.
        row = drawn[round((y0 + y1) / 2 * scale)]
        assert row.sum() == 2 * round(2 * max(1, size[0] / 1000))


def test_the_first_detection_is_on_top():
    box = [20.0, 20.0, 60.0, 60.0]
    first, second = draw_alone((160, 80), [box], [0]), draw_alone((160, 80), [box], [1])
    both = draw_alone((160, 80), [box, box], [0, 1])
    edge = (160, 20 * 4 - 2)
    assert (both[edge] == first[edge]).all() and (both[edge] != second[edge]).any()


def test_outlines_stay_in_the_picture():
    for box in ([0.0, 0.0, 160.0, 80.0], [-99.0, -99.0, 200.0, 300.0]):
        drawn = (draw_alone((160, 80), [box], [1]) != 90).any(axis=2)
        assert drawn[0].all() and drawn[-1].all() and drawn[:, 0].all() and drawn[:, -1].all()
    draw_alone((160, 80), [[200.0, 10.0, 300.0, 20.0]], [1])
