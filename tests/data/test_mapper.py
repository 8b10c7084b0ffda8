"""The mapper agrees with Detectron2's, and what it skips is counted, whatever the runtime and the workers."""

import itertools
import logging

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from lors.data import Mapper, RandomChoice, Readable, TrainLoader
from lors.data.images import BadImage

AUGMENTATIONS = [
    T.RandomFlip(),
    RandomChoice(
        [
            [T.ResizeShortestEdge([20, 30, 40], 70, "choice")],
            [T.ResizeShortestEdge([40, 50], 90, "choice"), T.RandomCrop("absolute_range", [15, 30])],
        ]
    ),
]


@pytest.fixture
def records(tmp_path):
    """Eight images of 45 x 30; of number i, i random boxes and a crowd."""
    rng = np.random.RandomState(0)
    made = []
    for i in range(8):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.randint(0, 256, (30, 45, 3)).astype(np.uint8)).save(path)
        boxes = [rng.uniform((0, 0, 1, 1), (20, 20, 12, 12)).tolist() for _ in range(i + 1)]
        made.append(
            {
                "file_name": str(path),
                "image_id": i,
                "width": 45,
                "height": 30,
                "annotations": [
                    {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": j, "iscrowd": int(j == i)}
                    for j, box in enumerate(boxes)
                ],
            }
        )
    return made


def spoil(record, content=b"not an image"):
    with open(record["file_name"], "wb") as file:
        file.write(content)


def test_it_maps_as_detectron2_does(records):
    DatasetMapper = pytest.importorskip("detectron2.data.dataset_mapper").DatasetMapper
    for is_train, image_format in itertools.product((True, False), ("RGB", "BGR")):
        arguments = dict(augmentations=AUGMENTATIONS, image_format=image_format)
        theirs, ours = DatasetMapper(is_train, **arguments), Mapper(is_train, **arguments)
        for seed, record in enumerate(records * 4):
            np.random.seed(seed)
            a = theirs(record)
            np.random.seed(seed)
            b = ours(record)
            assert a.keys() == b.keys() and torch.equal(a.pop("image"), b.pop("image"))
            if is_train:
                a, b = a.pop("instances"), b.pop("instances")
                assert a.image_size == b.image_size and torch.equal(a.gt_classes, b.gt_classes)
                assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
            else:
                assert a == b


def test_what_it_makes(records):
    record = records[2]
    before = repr(record)
    mapped = Mapper(True, augmentations=[T.RandomFlip(prob=1.0), T.ResizeShortestEdge([60], 1000, "choice")])(
        record
    )
    assert repr(record) == before
    assert (mapped["image"].shape, mapped["image"].dtype) == ((3, 60, 90), torch.uint8)
    x, y, w, h = record["annotations"][0]["bbox"]
    expected = torch.tensor([90 - 2 * (x + w), 2 * y, 90 - 2 * x, 2 * (y + h)])
    torch.testing.assert_close(mapped["instances"].gt_boxes.tensor[0], expected)
    assert mapped["instances"].gt_classes.tolist() == [0, 1]  # the third is a crowd
    tested = Mapper(False, augmentations=[], image_format="BGR")(record)
    assert set(tested) == {"file_name", "height", "width", "image_id", "image"}
    pixels = np.asarray(Image.open(record["file_name"])).transpose(2, 0, 1)
    assert (tested["image"].numpy()[::-1] == pixels).all()


def test_integer_boxes_are_scaled_exactly(records):
    records[1]["annotations"][0]["bbox"] = [1, 2, 3, 4]
    mapped = Mapper(True, augmentations=[T.ResizeShortestEdge([10], 1000, "choice")])(records[1])
    expected = torch.tensor([[1 / 3, 2 / 3, 4 / 3, 2]])
    torch.testing.assert_close(mapped["instances"].gt_boxes.tensor, expected)


def test_boxes_of_corners_and_none(records):
    mapper = Mapper(True, augmentations=[])
    annotation = {"bbox": [1.0, 2.0, 3.0, 4.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    mapped = mapper({**records[0], "annotations": [annotation]})
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[1, 2, 3, 4]]
    for annotations in ([], [{**annotation, "bbox": [1.0, 2.0, 1.0, 4.0]}], [{**annotation, "iscrowd": 1}]):
        instances = mapper({**records[0], "annotations": annotations})["instances"]
        assert instances.gt_boxes.tensor.shape == (0, 4) and len(instances.gt_classes) == 0
    mixed = mapper({**records[0], "annotations": [annotation, {**annotation, "bbox_mode": BoxMode.XYWH_ABS}]})
    assert mixed["instances"].gt_boxes.tensor.tolist() == [[1, 2, 3, 4], [1, 2, 4, 6]]


@pytest.mark.parametrize("name, value", [("image_format", "L"), ("on_bad_image", "ignore")])
def test_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name}='{value}': must be one of"):
        Mapper(True, augmentations=[], **{name: value})


@pytest.mark.parametrize("is_train", [True, False])
def test_bad_images_raise(records, is_train):
    mapper = Mapper(is_train, augmentations=[T.ResizeShortestEdge([40], 60, "choice")], max_pixels=45 * 100)
    mapper(records[0])
    spoil(records[1])
    records[2]["width"] = 46
    Image.new("L", (1, 2000)).save(records[3]["file_name"])
    records[3].update(width=1, height=2000)
    Image.new("L", (45, 101)).save(records[4]["file_name"])
    for record, reason in zip(
        records[1:], ("not an image", "says 46 x 30", "augmentation", "max_pixels=4500")
    ):
        with pytest.raises(BadImage, match=rf"{record['image_id']}.png: .*{reason}"):
            mapper(record)


@pytest.mark.parametrize("size, shape", [((1, 1), (40, 40)), ((32, 4000), (100, 1)), ((50, 1), (2, 100))])
def test_sizes_that_are_odd(records, size, shape):
    mapper = Mapper(True, augmentations=[T.ResizeShortestEdge([40], 100, "choice")])
    Image.new("L", size).save(records[0]["file_name"])
    mapped = mapper({**records[0], "width": size[0], "height": size[1]})
    assert mapped["image"].shape == (3, *shape)


class Broken(T.Augmentation):
    def get_transform(self, image):
        height, width = image.shape
        raise AssertionError("an image has three dimensions")


def test_an_error_in_an_augmentation_is_not_the_images(records):
    mapper = Mapper(True, augmentations=[Broken()], on_bad_image="skip")
    with pytest.raises(ValueError, match="too many values") as raised:
        mapper(records[0])
    assert not isinstance(raised.value, BadImage)


def training_batches(records, workers, count, **arguments):
    mapper = Mapper(True, augmentations=AUGMENTATIONS, **arguments)
    loader = TrainLoader(records, mapper=mapper, total_batch_size=2, num_workers=workers)
    readable = Readable(loader)
    return readable, list(itertools.islice(iter(readable), count))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_in_training(records, workers, caplog):
    spoil(records[2])
    spoil(records[5], b"")
    caplog.set_level(logging.WARNING, "lors")
    readable, batches = training_batches(records, workers, 30, on_bad_image="skip")
    assert {len(batch) for batch in batches} == {2}
    assert {r["image_id"] for batch in batches for r in batch} == {0, 1, 3, 4, 6, 7}
    assert all("skipped" not in r for batch in batches for r in batch)
    # Once for each file, though each of them came up several times.
    texts = [r.message for r in caplog.records if r.name.startswith("lors")]
    assert len(texts) == 2
    for i in (2, 5):
        assert sum(f"Skipped {records[i]['file_name']}: not an image" in text for text in texts) == 1
    readable.log_count("replaced")
    assert "Skipped images: 2, " in caplog.text and "replaced" in caplog.text and "5.png" in caplog.text
    times = int(caplog.text.rpartition("Skipped images: 2, ")[2].split()[0])
    assert 10 <= times <= 24  # each of 8 images 7 or 8 times in 60, and some of the drawn instead


@pytest.mark.parametrize("workers", [0, 2])
def test_training_without_bad_images_is_the_same(records, workers):
    first, second = (
        [(r["image_id"], r["image"].sum().item()) for batch in batches for r in batch]
        for _, batches in (
            training_batches(records, workers, 10, on_bad_image=what) for what in ("raise", "skip")
        )
    )
    assert first == second


@pytest.mark.parametrize("workers", [0, 2])
def test_raising_in_training(records, workers):
    spoil(records[2])
    with pytest.raises(BadImage) as error:
        training_batches(records, workers, 30)
    assert str(error.value).startswith(f"{records[2]['file_name']}: not an image")
    assert "\n" not in str(error.value)


def test_all_bad_does_not_hang(records):
    for record in records:
        spoil(record)
    with pytest.raises(ValueError):
        training_batches(records, 0, 1, on_bad_image="skip")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_skipping_in_evaluation(records, workers, batch_size, caplog):
    spoil(records[2])
    spoil(records[7])
    caplog.set_level(logging.WARNING, "lors")
    loader = build_detection_test_loader(
        records,
        mapper=Mapper(False, augmentations=[], on_bad_image="skip"),
        batch_size=batch_size,
        num_workers=workers,
    )
    readable = Readable(loader)
    batches = list(readable)
    # Each that can be read, once.
    assert [r["image_id"] for batch in batches for r in batch] == [0, 1, 3, 4, 5, 6]
    assert all(batches) and len(readable) == len(loader)
    readable.log_count("missed")
    assert "Skipped images: 2, 2 times in all (missed)" in caplog.text


def test_nothing_is_logged_where_nothing_is_skipped(records, caplog):
    readable, _ = training_batches(records, 0, 3, on_bad_image="skip")
    readable.log_count("replaced")
    assert "kipped" not in caplog.text
