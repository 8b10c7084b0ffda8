"""Dataset dicts are checked before they are used."""

import logging
from contextlib import nullcontext

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from small_coco import NAN

from lors.data import Mapper, check_records
from lors.errors import UserError


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


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
def test_numbers_of_numpy(record, mode):
    made = record((1, 2, 3, 4), (1, 2, 3, 4), mode=mode)
    made.update(width=np.int64(9), height=np.int32(9))
    first, second = made["annotations"]
    first.update(category_id=np.int64(0), bbox=np.array([1.0, 2, 3, 4]))
    second["bbox"] = [np.float32(x) for x in second["bbox"]]
    check_records([made], "d", num_queries=9)


def test_a_large_image_is_read_where_the_mapper_reads_it(record):
    for largest in (80, 81):
        mapper = Mapper(False, augmentations=[], max_pixels=largest, on_bad_image="skip")
        readable = "skipped" not in mapper(dict(record()))
        with nullcontext() if readable else pytest.raises(UserError, match="none of its 1 images"):
            check_records([record()], "d", num_queries=9, on_bad_image="skip", max_pixels=largest)
        assert readable == (largest == 81)


def test_records_whose_images_are_missing(record, caplog):
    records = [record((1, 2, 3, 4)), record((1, 2, 3, 4), name="2.png"), record((1, 2, 3, 4), name="a/3.png")]
    with pytest.raises(UserError, match="dataset d cannot be used: 2 missing_image .*2.png"):
        check_records(records, "d", num_queries=9, on_bad_image="raise")
    check_records(records, "d", num_queries=9, on_bad_image="skip")
    assert "2 missing_image" in caplog.text
    for bad in (records[1:], [{**records[0], "width": 8}]):
        with pytest.raises(UserError, match=f"none of its {len(bad)} images can be used"):
            check_records(bad, "d", num_queries=9, on_bad_image="skip")
