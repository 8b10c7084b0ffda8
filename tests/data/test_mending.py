"""What is odd about a whole file is seen, and what can be mended is."""

import copy

from small_coco import annotation, dataset, without

from lors.data.check import check
from lors.data.classes import Classes, match
from lors.data.problems import ERROR, NOTED, summarise


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
    assert "looks_like_xyxy" not in kinds and {"often_outside", "partly_outside"} <= {*kinds}
    # A box in ten past its image is no sign of anything.
    content["annotations"] = [
        annotation(i, (50, 40, 60, 9) if i == 1 else (5, 4, 6, 9)) for i in range(1, 11)
    ]
    assert [p.kind for p in check(content) if p.done not in (ERROR, NOTED)] == ["partly_outside"]


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
