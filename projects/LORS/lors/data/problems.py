"""Every kind of problem that a dataset can have, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from lors.data.images import in_both

ERROR, DROPPED, NOTED = "error", "dropped", "noted"

# kind: what is done about it, what it is
KINDS = {
    "not_coco": (ERROR, "images or categories are missing, or they or annotations are no list"),
    "wrong_type": (ERROR, "a field is missing or its value is of another type than the format's"),
    "duplicate_id": (ERROR, "several images or several categories have this id"),
    "unknown_category": (ERROR, "no category has the annotation's category_id"),
    "unknown_class": (ERROR, "there are objects of classes that the model was not trained on"),
    "not_a_box": (ERROR, "bbox is not a list of four finite numbers below a thousand million"),
    "negative_size": (ERROR, "the box's width or height is negative"),
    "looks_like_xyxy": (ERROR, "the boxes seem to be x0, y0, x1, y1; COCO's are x, y, width, height"),
    "looks_like_shares": (ERROR, "the boxes seem to be shares of the image; COCO's are pixels"),
    "nothing_left": (ERROR, "every annotation would be dropped"),
    "missing_image": (ERROR, "there is no such image file"),
    "bad_image": (ERROR, "the image cannot be read; a mapper with on_bad_image=skip leaves it out"),
    "image_size": (ERROR, "the image has another size; a mapper with on_bad_image=skip leaves it out"),
    "unknown_image": (DROPPED, "no image has the annotation's image_id"),
    "no_area": (DROPPED, "the box's width or height is 0"),
    "outside": (DROPPED, "the box is wholly outside its image"),
    "unused_class": (DROPPED, "the model was not trained on these classes, and there are no objects of them"),
    "often_outside": ("clipped", "are x and y the boxes' centres, or the images of another size?"),
    "partly_outside": ("clipped", "the box reaches more than a pixel past its image"),
    "encoding": ("decoded", "the file is Unicode of another kind than plain UTF-8"),
    "file_name": ("found", "the file's name differs by \\, %20 or case"),
    "other_folder": ("found", "one file has this name, in another folder: it may be another image"),
    "no_xml": ("left out", "an image of a VOC folder has no XML file"),
    "not_voc": ("left out", "an XML file is no annotation of Pascal VOC"),
    "no_size": ("read from the file", "the image's width or height is missing or no whole number above 0"),
    "id_type": ("matched", "an id is the right number as a text or with a decimal point"),
    "name_type": ("made a text", "a class's name is a number"),
    "control": ("made one blank", "a class's name has line breaks or other control characters"),
    "no_box": ("made from the polygons", "bbox is missing"),
    "annotation_id": ("numbered anew", "the id is missing, taken, or not a whole number above 0"),
    "same_name": ("renamed", "a category before it has this name"),
    "empty_class": ("left out", "a category without annotations has the name of another"),
    "other_ids": ("matched by name", "the classes have other ids or another order than in training"),
    "incomplete": ("filled in", "area (width x height) is missing or not above 0, or iscrowd (0) is missing"),
    "segmentation": ("left out", "there is no polygon and no mask in it; the box stays"),
    "ignore": ("made a crowd", "the object is to be ignored"),
    "crowd": ("made an object", "the annotation is a crowd, and crowds are to be objects"),
    "trained_on": (NOTED, "an image of the test set is one of the training set: AP is too high"),
    "same_file": (NOTED, "an image before it is the same file: it is learnt and counted each time"),
    "same_box": (NOTED, "a box and class that the image has already: it is learnt and counted twice"),
    "rotated": (NOTED, "the box is turned (CVAT's attributes.rotation), which is ignored"),
    "below_a_pixel": (NOTED, "the box's width or height is below 1"),
    "no_boxes": (NOTED, "an image without boxes, but perhaps crowds: not trained on, evaluated"),
    "class_without_boxes": (NOTED, "these classes are not learnt and have no AP; crowds do not count"),
    "no_boxes_at_all": (NOTED, "there is no AP, and as a training set it is an error"),
    "more_boxes_than_queries": (NOTED, "an image has boxes that no query can find"),
    "more_boxes_than_counted": (NOTED, "an image has more boxes than detections count: AP is too low"),
}


class Problem(NamedTuple):
    """One thing that is wrong: its kind, a key of `KINDS`; where; and why."""

    kind: str
    id: str
    reason: str

    @property
    def done(self) -> str:
        return KINDS[self.kind][0]


def summarise(problems: Iterable[Problem]) -> str:
    """In one line how many problems there are of each kind, what is done about it, and the first."""
    problems = sorted(problems, key=lambda problem: list(KINDS).index(problem.kind))
    counts = Counter(problem.kind for problem in problems)
    first = {problem.kind: problem for problem in reversed(problems)}
    said = [(first[kind], number) for kind, number in counts.items()]
    return "; ".join(f"{number} {p.kind} ({p.done}; {p.id}: {p.reason})" for p, number in said)


def leaked(trained_on: Iterable[str], tested: Iterable[str]) -> list[Problem]:
    """The files of a test set that are the training set's too."""
    return [Problem("trained_on", path, "is in the training set too") for path in in_both(trained_on, tested)]
