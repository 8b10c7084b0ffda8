import json
import logging
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lors.data import digits, num_classes, register_digits

FEW = {"train": 3, "test": 4, "val": 2}
# Of the first test image: all pixels, row 40, column 100.
KNOWN_SUMS = (2959642, 20014, 20777)


@pytest.fixture(scope="module")
def sources():
    return {split: digits.load_sources(split) for split in digits.SOURCES}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets") / "lors_digits"
    digits.write_dataset(root, FEW)
    return root


@pytest.fixture
def catalogs():
    yield
    for name in ("lors_digits_train", "lors_digits_test", "lors_digits_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def many_placements(sources, count=60):
    return [digits.place_digits(digits.image_rng("train", i), *sources["train"]) for i in range(count)]


def iou(a, b):
    covers = np.zeros((2, digits.CANVAS, digits.CANVAS), bool)
    for cover, (x, y, w, h) in zip(covers, (a, b)):
        cover[y : y + h, x : x + w] = True
    return (covers[0] & covers[1]).sum() / (covers[0] | covers[1]).sum()


def test_same_bytes_every_time(dataset, tmp_path):
    digits.write_dataset(tmp_path / "again", FEW)
    assert contents(tmp_path / "again") == contents(dataset)
    assert len(contents(dataset)) == 3 + sum(FEW.values())


def test_known_pixels_on_every_machine(dataset):
    # Computed once; it guards against draws that depend on the versions of numpy and Pillow.
    pixels = np.asarray(Image.open(dataset / "test" / "000000.png")).astype(int)
    # Grey, and as they were drawn: PNG loses nothing.
    assert pixels.shape == (160, 160)
    assert (pixels.sum(), pixels[40].sum(), pixels[:, 100].sum()) == KNOWN_SUMS


def test_splits_show_different_digits_and_all_of_them():
    splits = {split: digits.split_sources(split, 1797).tolist() for split in ("train", "test", "val")}
    assert sorted(sum(splits.values(), [])) == list(range(1797))
    assert {split: len(of) for split, of in splits.items()} == {"train": 1200, "test": 397, "val": 200}


def test_images_are_drawn_from_the_sources_of_their_split(dataset, tmp_path, monkeypatch):
    asked = []
    load_sources = digits.load_sources
    monkeypatch.setattr(digits, "load_sources", lambda s: asked.append(s) or load_sources(s))
    digits.write_dataset(tmp_path / "made", {"train": 1, "test": 1, "val": 1})
    assert asked == ["train", "test", "val"]
    assert len({(dataset / s / "000000.png").read_bytes() for s in asked}) == 3


def test_sources_keep_their_labels():
    from sklearn.datasets import load_digits

    data = load_digits()
    sources, labels = digits.load_sources("test")
    for source, label, i in zip(sources, labels, digits.split_sources("test", 1797)):
        assert label == data.target[i]
        small = np.asarray(source.resize((12, 12), Image.Resampling.BOX))[2:-2, 2:-2]
        assert np.corrcoef(small.ravel(), data.images[i].ravel())[0, 1] > 0.8


def test_ink_reaches_all_four_sides_of_the_box_and_none_lies_outside(sources):
    for placed in many_placements(sources, count=10):
        for digit in placed:
            canvas = np.full((digits.CANVAS, digits.CANVAS), 128.0)
            digits.ink_digit(np.random.RandomState(0), canvas, digit)
            change = np.abs(canvas - 128)
            ys, xs = np.nonzero(change > change.max() * 0.3)
            size = (xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
            assert (xs.min(), ys.min(), *size) == digit.box


def test_rendered_digits_are_tight_at_every_size(sources):
    rng = np.random.RandomState(0)
    thin_tip = np.zeros((96, 96), np.uint8)
    thin_tip[40:80, 30:60] = thin_tip[20:40, 45] = 255
    for source in sources["train"][0] + 20 * [Image.fromarray(thin_tip)]:
        mask = digits.render_digit(rng, source)
        assert 12 <= mask.shape[0] <= 48
        edges = mask[0], mask[-1], mask[:, 0], mask[:, -1]
        assert min(edge.max() for edge in edges) > digits.INK


def test_placed_digits_carry_the_label_of_their_source(monkeypatch):
    monkeypatch.setattr(digits, "render_digit", lambda rng, k: np.full((12, 12), k, np.uint8))
    placed = digits.place_digits(np.random.RandomState(0), range(10), range(10))
    assert [digit.label for digit in placed] == [digit.mask[0, 0] for digit in placed]
    assert len({digit.label for digit in placed}) > 1


def test_json_boxes_are_where_the_digits_are_in_the_image(dataset, sources):
    content = json.loads((dataset / "test.json").read_text())
    rng = digits.image_rng("test", 0)
    placed = digits.place_digits(rng, *sources["test"])
    annotations = [a for a in content["annotations"] if a["image_id"] == 0]
    assert [tuple(a["bbox"]) for a in annotations] == [digit.box for digit in placed]
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert [names[a["category_id"]] for a in annotations] == [str(d.label) for d in placed]
    state = rng.get_state()
    image = digits.draw_image(rng, placed).astype(int)
    np.testing.assert_array_equal(image, np.asarray(Image.open(dataset / "test" / "000000.png")))
    rng.set_state(state)
    clutter = digits.draw_clutter(rng)
    changed = np.abs(image - clutter) > 30
    inside = np.zeros_like(changed)
    for x, y, w, h in (digit.box for digit in placed):
        inside[y : y + h, x : x + w] = True
        assert changed[y : y + h, x : x + w].mean() > 0.1
    assert not changed[~inside].any()


def test_sizes_span_the_range_and_stay_in_it(sources):
    boxes = [digit.box for placed in many_placements(sources) for digit in placed]
    heights = np.array([height for _, _, _, height in boxes])
    assert heights.min() in (12, 13) and heights.max() in (46, 47, 48)
    # Log-uniform: half of them lie below the geometric mean, 24.
    assert 0.4 < (heights < 24).mean() < 0.65
    for x, y, width, height in boxes:
        assert 0 <= x <= 160 - width and 0 <= y <= 160 - height


def test_each_image_has_three_to_eight_digits_that_overlap_a_little_at_most(sources):
    counts, ious = set(), []
    for placed in many_placements(sources):
        counts.add(len(placed))
        pairs = [(a, b) for i, a in enumerate(placed) for b in placed[:i]]
        ious += [iou(a.box, b.box) for a, b in pairs]
    assert counts == {3, 4, 5, 6, 7, 8}
    assert 0.03 < max(ious) < 0.15


def test_an_interrupted_first_use_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(rng, placed):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "draw_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        digits.write_dataset(tmp_path / "lors_digits", FEW)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_racing_do_no_harm(dataset, tmp_path, monkeypatch):
    root = tmp_path / "lors_digits"
    rename = os.rename

    def rename_second(made, target):
        monkeypatch.setattr(os, "rename", rename)
        digits.write_dataset(root, FEW)
        rename(made, target)

    monkeypatch.setattr(os, "rename", rename_second)
    digits.write_dataset(root, FEW)
    assert contents(root) == contents(dataset)
    assert list(tmp_path.iterdir()) == [root]


def test_incomplete_data_is_an_error_and_left_alone(tmp_path):
    root = tmp_path / "lors_digits"
    root.mkdir()
    (root / "train.json").write_text("mine")
    with pytest.raises(FileExistsError, match="remove it"):
        digits.write_dataset(root, FEW)
    assert (root / "train.json").read_text() == "mine"


def test_register_makes_the_data_once(tmp_path, monkeypatch, catalogs, caplog):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "not" / "there"))
    monkeypatch.setattr(digits, "NUM_IMAGES", FEW)
    with caplog.at_level(logging.INFO, logger=digits.__name__):
        assert register_digits("test") == register_digits("test") == "lors_digits_test"
        assert register_digits("train") == "lors_digits_train"
        assert register_digits("val") == "lors_digits_val"
    assert len(caplog.records) == 1
    assert num_classes("lors_digits_train") == 10
    assert MetadataCatalog.get("lors_digits_test").thing_classes == list("0123456789")
    for split, count in FEW.items():
        records = DatasetCatalog.get(f"lors_digits_{split}")
        assert len(records) == count
        assert all(os.path.isfile(record["file_name"]) for record in records)
        assert {a["category_id"] for r in records for a in r["annotations"]} <= set(range(10))


def test_unknown_split_names_the_allowed_ones():
    with pytest.raises(ValueError, match="train, test, val.*'valid'"):
        register_digits("valid")
