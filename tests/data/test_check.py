"""Every kind of problem is found, none hides another, and what can be mended is."""

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.structures import BoxMode
from PIL import Image

from lors.data.check import KINDS, Problem, check, check_image, check_records, mends, read_json, summarise

ROOT = Path(__file__).parent.parent.parent
NAN, INF = float("nan"), float("inf")


def annotation(number, bbox=(10, 20, 30, 40), image_id=1, **fields):
    box = {} if bbox is None else {"bbox": list(bbox) if isinstance(bbox, tuple) else bbox, "area": 1200}
    return {"id": number, "image_id": image_id, "category_id": 7, "iscrowd": 0, **box, **fields}


def dataset(*annotations, **lists):
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2)],
        "categories": [{"id": 7, "name": "seven"}, {"id": 90, "name": "ninety"}],
        # so that each image has a box
        "annotations": [annotation(50), annotation(51, image_id=2), *annotations],
        **lists,
    }


def without(entry, key):
    return {k: v for k, v in entry.items() if k != key}


IMAGE = dataset()["images"][0]

# The dataset, and the ids of each kind that must be found: exactly these.
FOUND = {
    "good": (dataset(), {}),
    "gaps in category ids": (dataset(annotation(1, category_id=90)), {}),
    "no info, a crowd, a mask, text ids": (
        dataset(
            annotation(1, image_id="a", segmentation=[[1, 2, 3, 4, 5, 6]]),
            annotation(2, image_id="a", iscrowd=1, segmentation={"size": [80, 100], "counts": [1, 2]}),
            images=[{**IMAGE, "id": "a"}],
            annotations=[annotation(1, image_id="a"), annotation(2, image_id="a", iscrowd=1)],
        ),
        {},
    ),
    "rounded coordinates": (dataset(annotation(1, (-0.4, -0.4, 100.9, 80.9))), {}),
    "a list": ([], {"not_coco": ["file", "file"]}),
    "no images": (dataset(images=[]), {"not_coco": ["file"]}),
    "lists that are none": (
        dataset(images=3, categories=None, annotations="x"),
        {"not_coco": ["file"] * 3},
    ),
    "entries that are none": (
        {**dataset(), "images": [IMAGE, 5], "categories": [["a"]], "annotations": [annotation(1), None]},
        {
            "wrong_type": ["annotations[1]", "categories[0]", "images[1]"],
            "unknown_category": ["annotation 1"],
        },
    ),
    "image fields": (
        dataset(
            images=[
                IMAGE,
                {**IMAGE, "id": 2, "width": "100"},
                {**IMAGE, "id": 3, "height": 0},
                {**IMAGE, "id": 4, "file_name": None},
                without({**IMAGE, "id": 5}, "width"),
                {**IMAGE, "id": True},
                {**IMAGE, "id": "6"},
                {**IMAGE, "id": 7, "width": 99.5},
                {**IMAGE, "id": 8, "width": NAN},
            ],
            annotations=[annotation(i, image_id=i) for i in (1, 2, 3, 4, 5, 7, 8)]
            + [annotation(9, image_id="6")],
        ),
        {"wrong_type": [f"image {i}" for i in range(2, 9)] + ["images[5]"]},
    ),
    "category fields": (
        dataset(categories=[{"id": 7}, {"id": 8, "name": 8}, {"id": "9", "name": "nine"}]),
        {"wrong_type": ["categories[2]", "category 7", "category 8"]},
    ),
    "duplicate ids": (
        dataset(
            annotation(50),
            images=[*dataset()["images"], IMAGE],
            categories=[*dataset()["categories"], {"id": 90, "name": "other"}],
        ),
        {
            "duplicate_image": ["image 1"],
            "duplicate_category": ["category 90"],
            "annotation_id": ["annotations[2]"],
        },
    ),
    "annotation ids": (
        dataset(
            annotation(0), annotation("5"), without(annotation(1), "id"), annotation(-3), annotation(10**400)
        ),
        {"annotation_id": [f"annotations[{i}]" for i in (2, 3, 4, 5, 6)]},
    ),
    "unknown ids": (
        dataset(annotation(1, category_id=8), annotation(2, image_id=3)),
        {"unknown_category": ["annotation 1"], "unknown_image": ["annotation 2"]},
    ),
    "annotation fields": (
        dataset(
            annotation(1, category_id="7"),
            annotation(2, image_id=None),
            annotation(3, iscrowd="no"),
            annotation(4, image_id=[1]),
            annotation(5, image_id=1.5),
            annotation(6, iscrowd=[]),
            annotation(7, category_id=10**400),
            annotation(8, ignore=None),
        ),
        {"wrong_type": [f"annotation {i}" for i in range(1, 9)]},
    ),
    "not boxes": (
        dataset(
            annotation(1, (1, 2, 3)),
            annotation(2, ("1", "2", "3", "4")),
            annotation(3, None),
            annotation(4, [1, 2, [3], True]),
            annotation(5, {"x": 1}),
            annotation(6, []),
        ),
        {"not_a_box": [f"annotation {i}" for i in range(1, 7)]},
    ),
    "not finite": (
        dataset(
            annotation(1, (NAN, 2, 3, 4)), annotation(2, (1, INF, 3, 4)), annotation(3, (1, 2, 3, 10**400))
        ),
        {"not_finite": ["annotation 1", "annotation 2", "annotation 3"]},
    ),
    "sizes of boxes": (
        dataset(annotation(1, (9, 9, -3, 4)), annotation(2, (9, 9, 0, 4)), annotation(3, (9, 9, 3, 1e-9))),
        {"negative_size": ["annotation 1"], "no_area": ["annotation 2", "annotation 3"]},
    ),
    "outside": (
        dataset(
            annotation(1, (-20, 5, 50, 10)),
            annotation(2, (90, 70, 50, 50)),
            annotation(3, (101.5, 5, 10, 10)),
            annotation(4, (5, -10, 10, 10)),
            annotation(5, (100.5, 5, 0.4, 9)),
        ),
        {
            "partly_outside": ["annotation 1", "annotation 2"],
            "outside": ["annotation 3", "annotation 4", "annotation 5"],
        },
    ),
    "area and iscrowd": (
        dataset(
            without(annotation(1), "area"),
            without(annotation(2), "iscrowd"),
            annotation(3, area=NAN),
            annotation(4, area="9", iscrowd=None),
        ),
        {"incomplete": [f"annotation {i}" for i in (1, 2, 3, 4)]},
    ),
    "segmentations": (
        dataset(
            annotation(1, segmentation=[[]]),
            annotation(2, segmentation=[1, 2, 3, 4, 5, 6]),
            annotation(3, segmentation={"counts": "x"}),
            annotation(4, segmentation=[]),
        ),
        {"segmentation": ["annotation 1", "annotation 2", "annotation 3"]},
    ),
    "ignored": (dataset(annotation(1, ignore=1), annotation(2, ignore=0)), {"ignore": ["annotation 1"]}),
    "images without boxes": (
        dataset(annotations=[annotation(1, iscrowd=1)]),
        {"only_crowds": ["image 1"], "no_boxes": ["image 2"]},
    ),
    "no boxes": (dataset(annotations=[]), {"no_boxes_at_all": ["file"]}),
    "a test set": (without(dataset(), "annotations"), {"no_boxes_at_all": ["file"]}),
    "more boxes than queries": (
        dataset(annotation(1), annotation(2), annotation(3, iscrowd=1), annotation(4, image_id=2)),
        {"more_boxes_than_queries": ["image 1"]},
    ),
    "all at once": (
        dataset(annotation(0, (NAN, 2, 3, 4), category_id=8, iscrowd=2, segmentation=[[]])),
        {
            "annotation_id": ["annotations[2]"],
            "not_finite": ["annotations[2]"],
            "unknown_category": ["annotations[2]"],
            "wrong_type": ["annotations[2]"],
            "segmentation": ["annotations[2]"],
        },
    ),
}


@pytest.mark.parametrize("content, expected", FOUND.values(), ids=FOUND.keys())
def test_what_is_found(content, expected):
    queries = 2 if "more_boxes_than_queries" in expected else None
    found = {}
    for problem in check(copy.deepcopy(content), queries):
        found.setdefault(problem.kind, []).append(problem.id)
        assert problem.reason and "\n" not in problem.reason
    assert {kind: sorted(ids) for kind, ids in found.items()} == {k: sorted(v) for k, v in expected.items()}


def corners(bbox):
    x, y, w, h = bbox
    return x, y, x + w, y + h


BOXES = [(10 * i, 5 * i, 10 * i + 12, 5 * i + 9) for i in range(1, 8)] * 3


def test_boxes_given_as_corners():
    wrong = dataset(annotations=[annotation(i, box) for i, box in enumerate(BOXES, start=1)])
    (problem,) = [p for p in check(wrong) if p.kind == "looks_like_xyxy"]
    assert "9 of 21 boxes" in problem.reason and "21 fit" in problem.reason
    boxes = [(x, y, x1 - x, y1 - y) for x, y, x1, y1 in BOXES]
    right = dataset(annotations=[annotation(i, box) for i, box in enumerate(boxes, start=1)])
    assert "looks_like_xyxy" not in {p.kind for p in check(right)}


def test_boxes_of_a_larger_image_are_not_taken_for_corners():
    boxes = [(50, 40, 60 + i, 45 + i) for i in range(20)]
    boxes += [(90, 70, 30, 30)] * 5
    content = dataset(annotations=[annotation(i, box) for i, box in enumerate(boxes, start=1)])
    kinds = [p.kind for p in check(content)]
    assert "looks_like_xyxy" not in kinds and "partly_outside" in kinds


def test_mending():
    content = dataset(
        annotation(0),
        annotation(1, (9, 9, 0, 4)),
        annotation(2, (-20, 5, 50, 10)),
        annotation(3, (90, 70, 50, 50), area=7),
        without(without(annotation(50, (1, 2, 3, 4)), "area"), "iscrowd"),
        annotation(4, ignore=1, segmentation=[[]]),
        annotation(5, image_id=9),
    )
    problems = check(content)
    assert all(problem.fixed for problem in problems) and mends(problems)
    kept = content["annotations"]
    assert [a["id"] for a in kept] == [50, 51, 52, 2, 3, 53, 4]
    assert (kept[3]["bbox"], kept[3]["area"]) == ([0, 5, 30, 10], 300)
    assert (kept[4]["bbox"], kept[4]["area"]) == ([90, 70, 10, 10], 7)
    assert (kept[5]["area"], kept[5]["iscrowd"]) == (12, 0)
    assert (kept[6]["ignore"], kept[6]["iscrowd"]) == (0, 1) and "segmentation" not in kept[6]
    # What is mended stays so.
    assert [p.kind for p in check(content)] == []


def test_a_good_dataset_is_left_alone():
    content = dataset(annotations=[annotation(1), annotation(2, image_id=1)])
    before = copy.deepcopy(content)
    problems = check(content)
    assert summarise(problems) == "1 no_boxes (noted)"
    assert content == before and not mends(problems)


def test_files_that_are_no_json(tmp_path):
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(ValueError, match="x.json is not a JSON file"):
            read_json(str(tmp_path / "x.json"))


def test_image_files(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "1.png")
    Image.new("RGB", (80, 100)).save(tmp_path / "2.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    found = [check_image({**IMAGE, "id": i, "file_name": f"{i}.png"}, str(tmp_path)) for i in range(1, 5)]
    assert [p and (p.kind, p.id) for p in found] == [
        None,
        ("image_size", "image 2"),
        ("bad_image", "image 3"),
        ("missing_image", "image 4"),
    ]
    for i, problem in enumerate(found[1:], start=2):
        assert f"{i}.png" in problem.reason and not problem.fixed
    # `check` names these.
    assert check_image({"id": 1, "file_name": "1.png", "width": "100"}, str(tmp_path)) is None
    assert check_image(5, str(tmp_path)) is check_image({"id": 1}, str(tmp_path)) is None


def test_every_kind_is_tested():
    tested = {kind for _, expected in FOUND.values() for kind in expected}
    assert tested | {"looks_like_xyxy", "image_size", "bad_image", "missing_image"} == set(KINDS)


# The command


def command(*args):
    return subprocess.run(
        [sys.executable, "tools/check_dataset.py", *map(str, args)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path):
    def write(content):
        for image in content["images"]:
            Image.new("RGB", (100, 80)).save(tmp_path / image["file_name"])
        (tmp_path / "train.json").write_text(json.dumps(content))
        return tmp_path / "train.json", tmp_path

    return write


def assert_one_line(result, wanted):
    assert result.returncode == 1 and "Traceback" not in result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert wanted in error


def test_the_command_lists_and_counts(folder):
    json_file, images = folder(dataset(annotation(1, (NAN, 2, 3, 4)), *[annotation(0) for _ in range(30)]))
    (images / "2.png").unlink()
    result = command(json_file, images, "--queries", 9)
    assert_one_line(result, "2 errors")
    lines = result.stdout.splitlines()
    assert lines[0] == "2 images, 33 annotations, 2 categories, problems: 33"
    assert f"{json_file}: annotation 1: not_finite: bbox is [nan, 2, 3, 4]" in lines
    assert f"{json_file}: 10 more annotation_id" in lines
    assert any("image 2: missing_image" in line for line in lines)
    assert [line.split()[:3] for line in lines[-4:]] == [
        ["not_finite", "1", "error"],
        ["missing_image", "1", "error"],
        ["annotation_id", "30", "numbered"],
        ["more_boxes_than_queries", "1", "noted"],
    ]


def test_the_command_as_json(folder):
    result = command(*folder(dataset(annotation(1, (9, 9, 0, 4)))), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "images": 2,
        "annotations": 3,
        "categories": 2,
        "problems": [
            {"kind": "no_area", "id": "annotation 1", "reason": "bbox is [9, 9, 0, 4]", "fixed": True}
        ],
        "counts": {"no_area": 1},
    }


@pytest.mark.parametrize("missing", ["json", "folder"])
def test_the_command_without_files(folder, missing):
    json_file, images = folder(dataset())
    result = command(*((images / "no.json", images) if missing == "json" else (json_file, "nowhere")))
    assert_one_line(result, "no.json" if missing == "json" else "nowhere")


# Dataset dicts


def record(folder, number, *boxes, name="1.png"):
    annotations = [{"bbox": list(b), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for b in boxes]
    return {
        "file_name": str(folder / name),
        "image_id": number,
        "width": 9,
        "height": 9,
        "annotations": annotations,
    }


def test_records(tmp_path, caplog):
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    good = record(tmp_path, 1, (1, 2, 3, 4))
    caplog.set_level(logging.WARNING)
    check_records([good, record(tmp_path, 2)], "d", num_queries=1, on_bad_image="raise")
    assert caplog.text == ""
    many = record(tmp_path, 2, (1, 2, 3, 4), (1, 2, 0, 4), (1, 2, 3, 4))
    corners = record(tmp_path, 3, (5, 6, 7, 8))
    corners["annotations"][0]["bbox_mode"] = BoxMode.XYXY_ABS
    check_records([good, many, corners], "d", num_queries=2, on_bad_image="raise")
    assert "1 boxes without area" in caplog.text
    assert "1 images have more boxes than the 2 queries, up to 3" in caplog.text
    for bad, reason in (((1, NAN, 3, 4), "1 boxes are not finite"), ((1, 2, 3), "not four numbers")):
        with pytest.raises(ValueError, match=f"dataset d: .*{reason}"):
            check_records([good, record(tmp_path, 2, bad)], "d", num_queries=9, on_bad_image="raise")


def test_records_whose_images_are_missing(tmp_path, caplog):
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    records = [record(tmp_path, 1), record(tmp_path, 2, name="2.png"), record(tmp_path, 3, name="a/3.png")]
    with pytest.raises(ValueError, match="dataset d: 2 of 3 image files are missing: .*2.png, ..."):
        check_records(records, "d", num_queries=9, on_bad_image="raise")
    check_records(records, "d", num_queries=9, on_bad_image="skip")
    assert "2 of 3 image files are missing" in caplog.text
    for bad in (records[1:], [{**records[0], "width": 8}]):
        with pytest.raises(ValueError, match=f"none of its {len(bad)} images can be used"):
            check_records(bad, "d", num_queries=9, on_bad_image="skip")


def test_a_problem_reads_as_its_fields():
    assert Problem("no_area", "annotation 1", "x") == ("no_area", "annotation 1", "x")
