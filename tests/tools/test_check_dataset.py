"""check_dataset.py as a user runs it."""

import functools
import json
import subprocess
import sys

import pytest
from detectron2.config import LazyConfig
from PIL import Image
from small_coco import NAN, annotation, dataset

from runs import ROOT, assert_one_line


@pytest.fixture
def folder(tmp_path):
    def write(content):
        for image in content["images"]:
            Image.new("RGB", (100, 80)).save(tmp_path / image["file_name"])
        (tmp_path / "train.json").write_text(json.dumps(content))
        return tmp_path / "train.json", tmp_path

    return write


def test_the_command_lists_and_counts(folder):
    json_file, images = folder(dataset(annotation(1, (NAN, 2, 3, 4)), *[annotation(0) for _ in range(30)]))
    (images / "2.png").unlink()
    command = [sys.executable, "tools/check_dataset.py", str(json_file), str(images), "--queries=9"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert_one_line(result, "2 errors")
    lines = result.stdout.splitlines()
    assert lines[0] == "2 images, 33 annotations, 2 categories, problems: 33"
    assert any(f"{json_file}: annotation 1: not_a_box: " in line for line in lines)
    assert f"{json_file}: 10 more annotation_id" in lines
    assert any("image 2: missing_image" in line for line in lines)
    assert [line.split()[:3] for line in lines[-4:]] == [
        ["not_a_box", "1", "error"],
        ["missing_image", "1", "error"],
        ["annotation_id", "30", "numbered"],
        ["more_boxes_than_queries", "1", "noted"],
    ]


@pytest.fixture
def command(run_tool):
    return functools.partial(run_tool, "check_dataset")


def test_the_command_as_json(folder, command):
    code, said = command(*folder(dataset(annotation(1, (9, 9, 0, 4)))), "--json")
    assert code == 0
    assert json.loads(said) == {
        "images": 2,
        "annotations": 3,
        "categories": 2,
        "problems": [
            {"kind": "no_area", "id": "annotation 1", "reason": "bbox is [9, 9, 0, 4]", "done": "dropped"}
        ],
        "counts": {"no_area": 1},
    }


def test_the_command_says_what_training_says(folder, tmp_path, command):
    crowded = dataset(*(annotation(i) for i in range(100, 200)))
    json_file, images = folder(crowded)
    fewer = dataset(categories=[{"id": 1, "name": "ninety"}], annotations=[annotation(1, category_id=1)])
    (tmp_path / "val.json").write_text(json.dumps(fewer))

    def counts(*args):
        return json.loads(command(*args, "--json")[1])["counts"]

    assert counts(json_file, images) == {"more_boxes_than_queries": 1, "more_boxes_than_counted": 1}
    test = (tmp_path / "val.json", images, "--train", json_file)
    expected = {"other_ids": 1, "no_boxes": 1, "class_without_boxes": 1}
    assert counts(*test) == {**expected, "trained_on": 2}
    assert counts(*test, "--train-images", tmp_path / "others") == expected
    # Images that lie beside the training file are taken, and are others of the same names.
    (tmp_path / "train").mkdir()
    json_file = json_file.rename(tmp_path / "train" / "train.json")
    for name in ("1.png", "2.png"):
        Image.new("RGB", (100, 80), "red").save(tmp_path / "train" / name)
    assert counts(*test[:3], json_file) == expected
    # Its defaults are those of the config that people train with.
    cfg = LazyConfig.load(str(ROOT / "configs/custom/tiny_cpu.py"))
    code, said = command("--help")
    assert code == 0
    for number in (cfg.model.queries.num_queries, cfg.dataloader.evaluator.max_dets_per_image):
        assert f"(default: {number}," in said


@pytest.mark.parametrize("missing", ["json", "folder"])
def test_the_command_without_files(folder, command, missing):
    json_file, images = folder(dataset())
    error, _ = command(*((images / "no.json", images) if missing == "json" else (json_file, "nowhere")))
    assert error.startswith("error: ") and "\n" not in error
    assert ("no.json" if missing == "json" else "nowhere") in error
