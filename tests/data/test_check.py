"""Every kind of problem is found, none hides another, and what can be mended is."""

import copy
import functools
import json
import logging
import subprocess
import sys
from itertools import count

import pytest
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from lors.data import check_records
from lors.data.check import check
from lors.data.classes import Classes, match
from lors.data.coco import check_image
from lors.data.images import in_both
from lors.data.problems import ERROR, KINDS, NOTED, summarise
from lors.errors import UserError
from runs import ROOT, assert_one_line

NAN, INF = float("nan"), float("inf")


numbers = count()


def annotation(number, bbox=(), image_id=1, **fields):
    """Each has a box of its own where none is given."""
    bbox = (10 + next(numbers) % 10_000 / 10_000, 20, 30, 40) if bbox == () else bbox
    box = {} if bbox is None else {"bbox": list(bbox) if isinstance(bbox, tuple) else bbox, "area": 1200}
    return {"id": number, "image_id": image_id, "category_id": 7, "iscrowd": 0, **box, **fields}


def dataset(*annotations, **lists):
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2)],
        "categories": [{"id": 7, "name": "seven"}, {"id": 90, "name": "ninety"}],
        # so that each image and each class has a box
        "annotations": [annotation(50), annotation(51, image_id=2, category_id=90), *annotations],
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
            annotations=[
                annotation(1, image_id="a"),
                annotation(2, image_id="a", category_id=90),
                annotation(3, image_id="a", iscrowd=1),
            ],
        ),
        {},
    ),
    "rounded coordinates": (dataset(annotation(1, (-0.4, -0.4, 100.9, 80.9))), {}),
    "a list": ([], {"not_coco": ["file", "file"]}),
    "no images": (dataset(images=[]), {"not_coco": ["file"]}),
    "long ids": (
        dataset(
            images=[{**IMAGE, "id": 1234567890123456789}, {**IMAGE, "id": 2**63}],
            annotations=[
                annotation(1, image_id=1234567890123456789),
                annotation(2, image_id=1234567890123456789, category_id=90),
            ],
        ),
        {"wrong_type": ["images[1]"]},
    ),
    "ids of another type": (
        dataset(
            annotation(1, image_id="1"),
            annotation(2, image_id=2.0),
            annotation(3, category_id="7"),
            annotation(4, category_id=90.0),
            categories=[{"id": "7", "name": "seven"}, {"id": 90.0, "name": "ninety"}],
        ),
        {"id_type": ["categories[0]", "categories[1]", *(f"annotation {i}" for i in (1, 2, 3, 4))]},
    ),
    "texts for numbers": (
        dataset(
            images=[{**IMAGE, "id": "007"}],
            annotations=[annotation(1, image_id=7), annotation(2, image_id="007", category_id=90)],
        ),
        {"id_type": ["annotation 1"]},
    ),
    "no objects among the annotations": (
        dataset(annotations=[5, "x"]),
        {
            "wrong_type": ["annotations[0]", "annotations[1]"],
            "nothing_left": ["file"],
            "no_boxes_at_all": ["file"],
        },
    ),
    "all would be dropped": (
        dataset(annotations=[annotation(i, image_id=9) for i in (1, 2)]),
        {
            "unknown_image": ["annotation 1", "annotation 2"],
            "nothing_left": ["file"],
            "no_boxes_at_all": ["file"],
        },
    ),
    "one name twice": (
        dataset(
            annotation(1, category_id=91),
            categories=[*dataset()["categories"], {"id": 91, "name": "seven"}],
        ),
        {"same_name": ["category 91"]},
    ),
    "a class of crowds": (
        dataset(annotations=[annotation(1), annotation(2, image_id=2, category_id=90, iscrowd=1)]),
        {"class_without_boxes": ["file"], "no_boxes": ["image 2"]},
    ),
    "lists that are none": (
        dataset(images=3, categories=None, annotations="x"),
        {"not_coco": ["file"] * 3},
    ),
    "entries that are none": (
        {**dataset(), "images": [IMAGE, 5], "categories": [["a"]], "annotations": [annotation(1), None]},
        {"wrong_type": ["annotations[1]", "categories[0]", "images[1]"]},
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
        {
            "wrong_type": [f"image {i}" for i in range(2, 9)] + ["images[5]"],
            "same_file": [f"image {i}" for i in (2, 3, 5, 6, 7, 8)],
            "class_without_boxes": ["file"],
        },
    ),
    "category fields": (
        dataset(
            annotations=[annotation(1), annotation(2, image_id=2, category_id=8)],
            categories=[{"id": 7}, {"id": 8, "name": None}, {"id": "x", "name": "nine"}],
        ),
        {"wrong_type": ["categories[2]", "category 7", "category 8"]},
    ),
    "names that are numbers": (
        dataset(categories=[{"id": 7, "name": 1}, {"id": 90, "name": 2.5}]),
        {"name_type": ["category 7", "category 90"]},
    ),
    "names with line breaks": (
        dataset(categories=[{"id": 7, "name": "a\r\n\x07 b"}, {"id": 90, "name": "\n"}]),
        {"control": ["category 7", "category 90"], "wrong_type": ["category 90"]},
    ),
    "rotated by CVAT": (
        dataset(*(annotation(i, attributes={"rotation": turn}) for i, turn in enumerate((30.5, 0.0), 1))),
        {"rotated": ["annotation 1"]},
    ),
    "ids from 0": (
        dataset(
            annotations=[annotation(1, category_id=0), annotation(2, image_id=2, category_id=1)],
            categories=[{"id": 0, "name": "seven"}, {"id": 1, "name": "ninety"}],
        ),
        {},
    ),
    "one file twice": (
        dataset(images=[IMAGE, {**IMAGE, "id": 2}]),
        {"same_file": ["image 2"]},
    ),
    "one box twice": (
        dataset(
            annotation(1, (1, 2, 3, 4)),
            annotation(2, (1, 2, 3, 4)),
            annotation(3, (1, 2, 3, 4), iscrowd=1),
            annotation(4, (1, 2, 3, 4), category_id=90),
            annotation(5, (1, 2, 3, 4), image_id=2),
        ),
        {"same_box": ["annotation 2"]},
    ),
    "polygons alone": (
        dataset(annotation(1, None, segmentation=[[1, 2, 30, 4, 5, 60], [7]], area=9)),
        {"no_box": ["annotation 1"]},
    ),
    "polygons that are none": (
        dataset(
            annotation(1, None, segmentation=[[1, 2, "3", 4, 5, 6]]), annotation(2, None, segmentation=[])
        ),
        {"not_a_box": ["annotation 1", "annotation 2"]},
    ),
    "duplicate ids": (
        dataset(
            annotation(50),
            images=[*dataset()["images"], IMAGE],
            categories=[*dataset()["categories"], {"id": 90, "name": "other"}],
        ),
        {
            "duplicate_id": ["category 90", "image 1"],
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
            annotation(1, category_id="x"),
            annotation(2, image_id=None),
            annotation(3, iscrowd="no"),
            annotation(4, image_id=[1]),
            annotation(5, image_id=1.5),
            annotation(6, iscrowd=[]),
            annotation(7, category_id=10**400),
            annotation(8, ignore=None),
        ),
        {
            "wrong_type": [f"annotation {i}" for i in range(1, 9)],
            "unknown_category": ["annotation 1"],
        },
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
        {"not_a_box": ["annotation 1", "annotation 2", "annotation 3"]},
    ),
    "sizes of boxes": (
        dataset(
            annotation(1, (9, 9, -3, 4)),
            annotation(2, (9, 9, 0, 4)),
            annotation(3, (9, 9, 3, 1e-9)),
            annotation(4, (9, 9, 3, 0.5)),
        ),
        {
            "negative_size": ["annotation 1"],
            "no_area": ["annotation 2", "annotation 3"],
            "below_a_pixel": ["annotation 4"],
        },
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
            annotation(5, area=0),
            annotation(6, area=-1),
        ),
        {"incomplete": [f"annotation {i}" for i in range(1, 7)]},
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
        dataset(
            annotation(3, image_id=3, iscrowd=1),
            images=[{**IMAGE, "id": i, "file_name": f"{i}.png"} for i in (1, 2, 3, 4)],
        ),
        {"no_boxes": ["image 3", "image 4"]},
    ),
    "no boxes": (dataset(annotations=[]), {"no_boxes_at_all": ["file"]}),
    "crowds alone": (
        dataset(annotations=[annotation(1, iscrowd=1)]),
        {"no_boxes_at_all": ["file"], "class_without_boxes": ["file"]},
    ),
    "a test set": (without(dataset(), "annotations"), {"no_boxes_at_all": ["file"]}),
    "more boxes than queries": (
        dataset(annotation(1), annotation(2), annotation(3, iscrowd=1), annotation(4, image_id=2)),
        {"more_boxes_than_queries": ["image 1"]},
    ),
    "more boxes than are counted": (
        dataset(annotation(1), annotation(2), annotation(3, iscrowd=1), annotation(4, image_id=2)),
        {"more_boxes_than_counted": ["image 1"]},
    ),
    "all at once": (
        dataset(annotation(0, (NAN, 2, 3, 4), category_id=8, iscrowd=2, segmentation=[[]])),
        {
            "annotation_id": ["annotations[2]"],
            "not_a_box": ["annotations[2]"],
            "unknown_category": ["annotations[2]"],
            "wrong_type": ["annotations[2]"],
            "segmentation": ["annotations[2]"],
        },
    ),
}


@pytest.mark.parametrize("content, expected", FOUND.values(), ids=FOUND.keys())
def test_what_is_found(content, expected):
    limits = {}
    for kind, limit in (("queries", "num_queries"), ("counted", "max_detections")):
        if f"more_boxes_than_{kind}" in expected:
            limits[limit] = 2
    found = {}
    for problem in check(copy.deepcopy(content), **limits):
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
        annotation(6, (1, 2, 3, 5), area=0),
    )
    assert all(problem.done not in (ERROR, NOTED) for problem in check(content))
    kept = content["annotations"]
    assert [a["id"] for a in kept] == [50, 51, 52, 2, 3, 53, 4, 6]
    assert (kept[3]["bbox"], kept[3]["area"]) == ([0, 5, 30, 10], 300)
    assert (kept[4]["bbox"], kept[4]["area"]) == ([90, 70, 10, 10], 7)
    assert (kept[5]["area"], kept[5]["iscrowd"]) == (12, 0)
    assert (kept[6]["ignore"], kept[6]["iscrowd"]) == (0, 1) and "segmentation" not in kept[6]
    assert kept[7]["area"] == 15
    # What is mended stays so.
    assert [p.kind for p in check(content)] == []


def test_a_box_around_polygons():
    content = dataset(annotation(1, None, segmentation=[[1, 2, 30, 4, 5, 60], [7, 1, 8, 2, 9, 3]]))
    check(content)
    assert (content["annotations"][2]["bbox"], content["annotations"][2]["area"]) == ([1, 1, 29, 59], 1711)


def test_a_name_with_line_breaks_becomes_one_line():
    content = dataset(categories=[{"id": 7, "name": "traffic\n  light\x00"}, {"id": 90, "name": "a  b"}])
    check(content)
    assert [category["name"] for category in content["categories"]] == ["traffic light", "a  b"]


def test_where_ids_are_made_up_files_are_named():
    content = dataset(annotation(1, (9, 9, 0, 4), image_id=2))
    assert [problem.id for problem in check(content, by_file=True)] == ["2.png"]


def test_a_good_dataset_is_left_alone():
    content = dataset(annotations=[annotation(1), annotation(2, category_id=90)])
    before = copy.deepcopy(content)
    problems = check(content)
    assert summarise(problems) == "1 no_boxes (noted; image 2: 0 crowds)"
    assert content == before


def test_shares_of_the_image_are_no_boxes_in_pixels():
    boxes = [(x / 100, y / 80, (x1 - x) / 100, (y1 - y) / 80) for x, y, x1, y1 in BOXES]
    wrong = dataset(annotations=[annotation(i, box) for i, box in enumerate(boxes, start=1)])
    (problem,) = [p for p in check(wrong) if p.done == ERROR]
    assert problem.kind == "looks_like_shares" and "21 of 21" in problem.reason
    # Few small boxes in a corner are none.
    content = dataset(annotation(1, (0.1, 0.2, 0.5, 0.7)))
    assert [p.kind for p in check(content)] == ["below_a_pixel"]


def test_crowds_taken_as_objects():
    content = dataset(annotations=[annotation(1), annotation(2, image_id=2, category_id=90, iscrowd=1)])
    assert [p.kind for p in check(content, crowds_as_objects=True)] == ["crowd"]
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 0]


TRAINED = Classes(["ninety", "seven"], [3, 5])


def test_classes_are_matched_by_name():
    content = dataset()
    (problem,) = match(content, TRAINED)
    assert problem.kind == "other_ids"
    assert content["categories"] == [{"id": 3, "name": "ninety"}, {"id": 5, "name": "seven"}]
    assert [a["category_id"] for a in content["annotations"]] == [5, 3]
    assert match(content, TRAINED) == []


def test_classes_that_a_model_does_not_have():
    content = dataset(categories=[*dataset()["categories"], {"id": 91, "name": "spare"}])
    assert {p.kind: "spare" in p.reason for p in match(content, TRAINED)} == {
        "unused_class": True,
        "other_ids": False,
    }
    assert len(content["categories"]) == 2
    assert "differs" not in match(content, Classes(["seven"], [7]))[0].reason
    (problem, *_) = match(dataset(), Classes(["ninety", "Seven "], [3, 5]))
    assert problem.kind == "unknown_class" and "'seven' differs from 'Seven ' in case" in problem.reason
    problems = match(dataset(), Classes(["seven"], [7]))
    (problem,) = [p for p in problems if p.done == ERROR]
    assert problem.kind == "unknown_class" and "'ninety'" in problem.reason and "'seven'" in problem.reason


NAMES = {
    "sub dir\\1.png": ("file_name", "sub dir/1.png"),
    "sub%20dir/1.png": ("file_name", "sub dir/1.png"),
    "1.PNG": ("file_name", "1.png"),
    "cafe\u0301.png": ("file_name", "caf\u00e9.png"),
    "C:\\Users\\me\\sub dir\\1.png": ("other_folder", "sub dir/1.png"),
    "/home/me/data/sub dir/1.png": ("other_folder", "sub dir/1.png"),
    "images/1.png": ("other_folder", "1.png"),
    "deep.png": ("other_folder", "a/b/deep.png"),
    "twice.png": ("missing_image", "twice.png"),
    "nowhere.png": ("missing_image", "nowhere.png"),
}


@pytest.mark.parametrize("given, kind, wanted", [(given, *found) for given, found in NAMES.items()])
def test_image_files_under_the_names_of_other_systems(tmp_path, given, kind, wanted):
    for name in ("1.png", "sub dir/1.png", "a/b/deep.png", "caf\u00e9.png", "c/twice.png", "d/twice.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    content = dataset(
        annotations=[annotation(1), annotation(2, category_id=90)], images=[{**IMAGE, "file_name": given}]
    )
    (problem,) = check(content, str(tmp_path))
    assert (problem.kind, content["images"][0]["file_name"]) == (kind, wanted)


def test_several_names_of_one_file_are_not_mended(tmp_path):
    (tmp_path / "1.png").touch()
    content = dataset(images=[{**IMAGE, "id": i, "file_name": f"{i}/1.png"} for i in (1, 2)])
    assert [p.kind for p in check(content, str(tmp_path))] == ["missing_image"] * 2


def test_image_files(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "1.png")
    Image.new("RGB", (80, 100)).save(tmp_path / "2.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    found = [check_image({**IMAGE, "id": i, "file_name": f"{i}.png"}, str(tmp_path)) for i in range(1, 5)]
    assert [p and (p.kind, p.id) for p in found] == [
        None,
        ("image_size", "image 2"),
        ("bad_image", "image 3"),
        None,
    ]
    for i, problem in enumerate(found[1:3], start=2):
        assert f"{i}.png" in problem.reason and problem.done == ERROR
    # `check` names these.
    assert check_image({"id": 1, "file_name": "1.png", "width": "100"}, str(tmp_path)) is None
    assert check_image(5, str(tmp_path)) is check_image({"id": 1}, str(tmp_path)) is None


def test_sizes_are_those_of_the_files(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # a viewer turns it by 90 degrees
    Image.new("RGB", (100, 80)).save(tmp_path / "1.jpg")
    Image.new("RGB", (100, 80)).save(tmp_path / "2.jpg", exif=turned)
    (tmp_path / "3.jpg").touch()
    content = dataset(images=[{"id": i, "file_name": f"{i}.jpg", "width": None} for i in (1, 2, 3)])
    found = [(p.kind, p.id) for p in check(content, str(tmp_path)) if p.kind != "no_boxes"]
    assert found == [("no_size", "image 1"), ("no_size", "image 2"), ("wrong_type", "image 3")]
    assert [(image["width"], image["height"]) for image in content["images"][:2]] == [(100, 80), (80, 100)]


def test_the_same_files_by_other_paths(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    for name in ("train/1.png", "train/2.png", "val/2.png"):
        (tmp_path / name).touch()
    (tmp_path / "val/1.png").symlink_to(tmp_path / "train/1.png")
    train, val = ([f"{tmp_path}/{folder}/{i}.png" for i in (1, 2)] for folder in ("train", "val"))
    assert in_both(train, val) == val[:1]
    assert in_both(train, [f"{tmp_path}/val/../train/2.png"]) == [f"{tmp_path}/val/../train/2.png"]


def test_every_kind_is_tested():
    tested = {kind for _, expected in FOUND.values() for kind in expected}
    elsewhere = {
        "looks_like_xyxy",
        "looks_like_shares",
        "image_size",
        "bad_image",
        "missing_image",
        "file_name",
        "other_folder",
        "no_size",
        "no_xml",
        "not_voc",
        "trained_on",
    }
    elsewhere |= {"crowd", "other_ids", "unknown_class", "unused_class", "encoding"}
    assert tested | elsewhere == set(KINDS)


# The command


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


# Dataset dicts


@pytest.fixture
def record(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    DatasetCatalog.register("d", list)
    MetadataCatalog.get("d").thing_classes = ["one"]

    def make(*boxes, name="1.png", mode=BoxMode.XYWH_ABS):
        annotations = [{"bbox": list(b), "bbox_mode": mode, "category_id": 0} for b in boxes]
        return {"file_name": str(tmp_path / name), "width": 9, "height": 9, "annotations": annotations}

    yield make
    DatasetCatalog.remove("d")
    MetadataCatalog.remove("d")


def test_records(record, caplog):
    caplog.set_level(logging.WARNING)
    good = record((1, 2, 3, 4))
    check_records([good], "d", num_queries=1, on_bad_image="raise")
    assert caplog.text == ""
    many, corners = (
        record((1, 2, 3, 4), (1, 2, 0, 4), (1, 2, 3, 4)),
        record((5, 6, 7, 8), mode=BoxMode.XYXY_ABS),
    )
    check_records([good, many, corners], "d", num_queries=1, max_detections=1, on_bad_image="raise")
    for text in ("1 no_area", "1 more_boxes_than_queries", "1 more_boxes_than_counted"):
        assert text in caplog.text
    for bad in ((1, NAN, 3, 4), (1, 2, 3)):
        with pytest.raises(UserError, match="dataset d cannot be used: 1 not_a_box"):
            check_records([good, record(bad)], "d", num_queries=9, on_bad_image="raise")


def test_records_whose_images_are_missing(record, caplog):
    records = [record((1, 2, 3, 4)), record((1, 2, 3, 4), name="2.png"), record((1, 2, 3, 4), name="a/3.png")]
    with pytest.raises(UserError, match="dataset d cannot be used: 2 missing_image .*2.png"):
        check_records(records, "d", num_queries=9, on_bad_image="raise")
    check_records(records, "d", num_queries=9, on_bad_image="skip")
    assert "2 missing_image" in caplog.text
    for bad in (records[1:], [{**records[0], "width": 8}]):
        with pytest.raises(UserError, match=f"none of its {len(bad)} images can be used"):
            check_records(bad, "d", num_queries=9, on_bad_image="skip")
