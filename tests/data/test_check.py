"""Every kind of problem is found, and none hides another."""

import copy

import pytest
from small_coco import IMAGE, INF, NAN, annotation, dataset, without

from lors.data.check import check
from lors.data.problems import KINDS

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
    "one name twice, for Roboflow's group and its class": (
        dataset(
            categories=[{"id": 0, "name": "seven"}, *dataset()["categories"], {"id": 91, "name": "seven"}]
        ),
        {"empty_class": ["category 0", "category 91"]},
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


def test_every_kind_is_tested():
    tested = {kind for _, expected in FOUND.values() for kind in expected}
    elsewhere = {
        "looks_like_xyxy",
        "looks_like_shares",
        "often_outside",
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
