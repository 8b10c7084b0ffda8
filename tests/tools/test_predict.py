"""Detections in images that are in no dataset."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from PIL import Image

import lors
from lors.checkpoints import load_detector, write
from lors.data import register_coco
from lors.data.images import read_image

ROOT = Path(__file__).parent.parent.parent
TOOL = ROOT / "tools" / "predict.py"

CONFIG = """
from conftest import build_tiny_model
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig

from lors.data import register_coco

model = L(build_tiny_model)(num_classes=2)
dataset = dict(json="JSON", images="IMAGES")
dataloader = LazyConfig.load("COCO").dataloader
dataloader.train.dataset.names = L(register_coco)(json_file="${dataset.json}", image_root="${dataset.images}")
dataloader.test.mapper.augmentations[0].update(short_edge_length=64, max_size=96)
train = dict(device="cpu")
"""
CATEGORIES = [{"id": 7, "name": "cup"}, {"id": 3, "name": "pen"}]
# Sorted, and the sizes (width, height) that a viewer shows.
IMAGES = {"alpha.png": (60, 80), "grey.png": (50, 40), "plain.jpg": (90, 50), "turned.jpg": (40, 70)}


def load_tool():
    spec = importlib.util.spec_from_file_location("predict", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def write_images(folder: Path) -> None:
    folder.mkdir()
    pixels = np.random.RandomState(0)

    def image(mode: str, width: int, height: int) -> Image.Image:
        # Enlarged, so that JPEG keeps it
        shape = (height // 5, width // 5, len(mode)) if len(mode) > 1 else (height // 5, width // 5)
        small = Image.fromarray(pixels.randint(0, 256, shape).astype(np.uint8))
        return small.resize((width, height), Image.Resampling.BICUBIC)

    image("RGBA", *IMAGES["alpha.png"]).save(folder / "alpha.png")
    image("L", *IMAGES["grey.png"]).save(folder / "grey.png")
    image("RGB", *IMAGES["plain.jpg"]).save(folder / "plain.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it clockwise by 90 degrees
    image("RGB", *IMAGES["turned.jpg"][::-1]).save(folder / "turned.jpg", exif=exif)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model):
    """A folder with config.py, model.pth, images and truth.json."""
    folder = tmp_path_factory.mktemp("trained")
    paths = dict(
        JSON=folder / "truth.json", IMAGES=folder / "images", COCO=ROOT / "configs/common/data/coco.py"
    )
    text = CONFIG
    for name, path in paths.items():
        text = text.replace(f'"{name}"', repr(str(path)))
    (folder / "config.py").write_text(text)
    torch.manual_seed(0)
    model = tiny_model(num_classes=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    write_images(folder / "images")
    box = {"category_id": 7, "bbox": [5, 5, 20, 30], "area": 600, "iscrowd": 0}
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": name, "width": size[0], "height": size[1]}
            for i, (name, size) in enumerate(IMAGES.items())
        ],
        "annotations": [{"id": i + 1, "image_id": i, **box} for i in range(len(IMAGES))],
        "categories": CATEGORIES,
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder


def predict(trained: Path, *arguments) -> None:
    config, weights = str(trained / "config.py"), str(trained / "model.pth")
    tool.main(["--config-file", config, "--weights", weights, *map(str, arguments)])


def detections(trained: Path, folder: Path, *arguments) -> list[dict]:
    predict(trained, *arguments, "--threshold", 0, "--json", folder / "found.json")
    return json.loads((folder / "found.json").read_text())


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert one["category_id"] == other["category_id"]
        assert one["image_id"] == other["image_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_detections_are_those_of_an_evaluation(trained, tmp_path):
    cfg = LazyConfig.load(str(trained / "config.py"))
    name = register_coco(str(trained / "truth.json"), str(trained / "images"))
    loader = build_detection_test_loader(
        DatasetCatalog.get(name), mapper=instantiate(cfg.dataloader.test.mapper), num_workers=0
    )
    _, model = load_detector(str(trained / "config.py"), str(trained / "model.pth"))
    inference_on_dataset(model, loader, COCOEvaluator(name, output_dir=str(tmp_path)))
    expected = json.loads((tmp_path / "coco_instances_results.json").read_text())

    found = detections(trained, tmp_path, trained / "images")
    assert_same(found, expected)
    assert [d["file_name"] for d in found] == [
        str(trained / "images" / list(IMAGES)[d["image_id"]]) for d in found
    ]
    assert {(d["category_id"], d["category_name"]) for d in found} == {(3, "pen"), (7, "cup")}


def test_overrides_reach_the_config_wherever_they_stand(trained, tmp_path):
    image, smaller = trained / "images" / "plain.jpg", "dataloader.test.mapper.augmentations.0.max_size=48"
    found = detections(trained, tmp_path, image, smaller)
    assert detections(trained, tmp_path, smaller, "--output", tmp_path, image) == found
    assert [d["score"] for d in found] != [d["score"] for d in detections(trained, tmp_path, image)]


def test_merged_unless_told_otherwise(trained, tmp_path, monkeypatch):
    merged = []

    def merge(model):
        merged.append(lors.merge(model))
        return merged[-1]

    monkeypatch.setattr(tool, "merge", merge)
    image = trained / "images" / "plain.jpg"
    plain = detections(trained, tmp_path, image, "--unmerged")
    assert not merged
    assert_same(detections(trained, tmp_path, image), plain)
    assert len(merged) == 1 and merged[0].decoder.bank is None


def test_a_picture_for_each_image_under_its_name(trained, tmp_path, capsys):
    predict(trained, trained / "images", "--threshold", 0, "--output", tmp_path / "found")
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == list(IMAGES)
    for name, (width, height) in IMAGES.items():
        with Image.open(tmp_path / "found" / name) as picture:
            assert picture.format == ("PNG" if name.endswith("png") else "JPEG")
            # Small ones are enlarged; nothing is left to turn.
            assert picture.width / picture.height == pytest.approx(width / height, abs=0.01)
            assert picture.getexif().get(0x0112) is None
    said = capsys.readouterr()
    assert said.out.startswith("images: 4, not read: 0, ") and said.out.count("\n") == 1
    assert "device: cpu" in said.out and str(tmp_path / "found") in said.out
    assert said.err == ""


def test_unsure_detections_are_left_out(trained, tmp_path, capsys):
    found = detections(trained, tmp_path, trained / "images")
    threshold = sorted(d["score"] for d in found)[len(found) // 2]
    predict(trained, trained / "images", "--threshold", threshold, "--json", tmp_path / "sure.json")
    sure = [d for d in found if d["score"] >= threshold]
    assert 0 < len(sure) < len(found)
    assert json.loads((tmp_path / "sure.json").read_text()) == sure
    assert f"detections: {len(sure)} (" in capsys.readouterr().out


@pytest.fixture
def broken(trained, tmp_path):
    """A folder with an image among files that are none."""
    folder = tmp_path / "broken"
    folder.mkdir()
    whole = (trained / "images" / "plain.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "whole.jpg").write_bytes(whole)
    # Resized to 96 pixels, it has no height.
    Image.new("RGB", (1000, 1)).save(folder / "thread.png")
    return folder


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(trained, broken, tmp_path, capsys):
    found = detections(trained, tmp_path, broken, "--output", tmp_path / "found")
    assert {d["file_name"] for d in found} == {str(broken / "whole.jpg")}
    assert {d["image_id"] for d in found} == {4}
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["whole.jpg"]
    said = capsys.readouterr()
    assert "images: 1, not read: 4" in said.out
    lines = said.err.splitlines()
    for line, name in zip(lines, ("cut.jpg", "empty.png", "text.png", "thread.png")):
        assert line.startswith(f"not read: {broken / name}: ") and len(line) > len(f"not read: {name}: ")
    assert len(lines) == 4


def test_the_largest_image_is_the_configs(trained, tmp_path, monkeypatch, capsys):
    # With another default, a largest image that is not handed on is noticed.
    monkeypatch.setattr(tool, "read_image", lambda name, max_pixels=1: read_image(name, max_pixels))
    image, key = trained / "images" / "plain.jpg", "dataloader.test.mapper.max_pixels"
    detections(trained, tmp_path, image, f"{key}=1000000")
    with pytest.raises(SystemExit):
        predict(trained, image, f"{key}=5", "--output", tmp_path)
    assert key in capsys.readouterr().err


def test_exit_code_1_where_none_could_be_read(trained, broken, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        predict(trained, broken / "empty.png", "--output", tmp_path / "found")
    assert stopped.value.code == 1
    assert "empty.png: not an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (["*.nothing"], "*.nothing"),
        (["."], ".: no images there"),
        (["images", "--threshold", "40"], "--threshold 40"),
        (["images", "--json", "."], "--json ."),
        (["images", "--json", "images/plain.jpg/x.json"], "images/plain.jpg"),
        (["images", "--json", "images/plain.jpg"], "--json images/plain.jpg"),
        (["images", "--output", "images"], "--output images"),
        (["images", "train.devise=cpu"], "'train.device'"),
        (["images", "train.device=abacus"], "train.device=abacus"),
        (["images", "model.num_classes=5"], "does not fit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(trained, tmp_path, monkeypatch, arguments, wanted):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    with pytest.raises(SystemExit) as stopped:
        predict(trained, *arguments)
    assert stopped.value.code.startswith("error: ") and "\n" not in stopped.value.code
    assert wanted in stopped.value.code
    assert all((tmp_path / "images" / name).is_file() for name in IMAGES)


def test_the_command_line(run_tool):
    error, _ = run_tool("predict", "--config-file", "x.py", "--weights", "x.pth", "nowhere.png")
    assert error.startswith("error: nowhere.png: ") and "\n" not in error


def test_images_are_found_sorted_and_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/1.JPG", "b/notes.txt", "b/.3.png", "b/below/4.png", "a[1].png", "a1.png", "c"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    assert tool.find_images(["b"]) == ["b/1.JPG", "b/2.png"]
    assert tool.find_images(["b/2.png", "./b/2.png", "b", f"{tmp_path}/b/1.JPG"]) == [
        "b/1.JPG",
        "b/2.png",
    ]
    # A name that exists is no glob, and a file that is named is taken whatever its name.
    assert tool.find_images(["c", "a[1].png"]) == ["a[1].png", "c"]
    assert tool.find_images(["a*.png"]) == ["a1.png", "a[1].png"]
    assert tool.find_images(["b/**/*.png"]) == ["b/2.png", "b/below/4.png"]


def test_no_two_pictures_have_one_name(tmp_path):
    def names(*images):
        pictures = tool.name_pictures([str(tmp_path / image) for image in images], "out")
        return [str(picture) for picture in pictures]

    assert names("a/1.png", "a/2.jpg") == ["out/1.png", "out/2.jpg"]
    assert names("a/1.png", "b/c/1.png") == ["out/a/1.png", "out/b/c/1.png"]
    assert names("1.jpg", "1.png", "x/1.png") == ["out/1.jpg", "out/1.png", "out/x/1.png"]
    assert names("1", "1.dat", "1.png") == ["out/1.png", "out/1.dat.png", "out/1.png.png"]


def test_every_format_of_a_folder_can_be_written(trained, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    extensions = (".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".TIF", ".tiff", ".webp")
    for extension in extensions:
        Image.new("RGB", (40, 30)).save(folder / f"image{extension}")
    predict(trained, folder, "--output", tmp_path / "found")
    assert len(list((tmp_path / "found").iterdir())) == len(extensions)


def test_files_of_a_folder_that_are_no_images_are_counted(trained, tmp_path, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    for name in ("a.heic", "b.heic", "notes.txt"):
        (tmp_path / name).touch()
    predict(trained, tmp_path, "--output", tmp_path / "found")
    said = capsys.readouterr()
    assert "left out: 3 files" in said.err and ".heic, .txt" in said.err and "images: 1," in said.out


def test_a_checkpoint_knows_its_classes_and_images(trained, tmp_path):
    image = trained / "images" / "plain.jpg"
    model = torch.load(trained / "model.pth", weights_only=True)
    about = {"names": ["x", "y"], "ids": [5, 8], "image_format": "BGR", "test_size": [[48, 80]]}
    write(str(tmp_path / "model.pth"), {**model, "about": about})
    (tmp_path / "config.py").write_text((trained / "config.py").read_text())
    gone = "dataset.json=nowhere.json"
    found = detections(tmp_path, tmp_path, image, gone)
    assert {d["category_id"] for d in found} == {5, 8}
    sized = ["dataloader.test.mapper.image_format=BGR", "dataloader.test.mapper.augmentations.0.max_size=80"]
    sized.append("dataloader.test.mapper.augmentations.0.short_edge_length=48")
    expected = detections(trained, tmp_path, image, *sized)
    assert [d["score"] for d in found] == [d["score"] for d in expected]
    # What is typed has the last word.
    plain = ["dataloader.test.mapper.image_format=RGB", "dataloader.test.mapper.augmentations.0.max_size=96"]
    plain.append("dataloader.test.mapper.augmentations.0.short_edge_length=64")
    again = detections(tmp_path, tmp_path, image, gone, *plain)
    assert [d["score"] for d in again] == [d["score"] for d in detections(trained, tmp_path, image)]


def test_coco_has_its_names_and_ids_without_its_files():
    cfg = LazyConfig.load(str(ROOT / "configs" / "lors_r50_1x.py"))
    names, ids = tool.find_classes(cfg, 80)
    assert (names[0], names[79], len(names)) == ("person", "toothbrush", 80)
    assert (ids[0], ids[79], len(ids)) == (1, 90, 80)


def test_classes_are_numbers_where_the_dataset_is_not_at_hand(trained, caplog):
    cfg = LazyConfig.load(str(trained / "config.py"))
    assert tool.find_classes(cfg, 2) == (["pen", "cup"], [3, 7])
    # Not the classes that the model has
    assert tool.find_classes(cfg, 3) == (["0", "1", "2"], [0, 1, 2])
    assert "2 classes, the model 3" in caplog.text
    cfg.dataset.json = "nowhere.json"
    assert tool.find_classes(cfg, 2) == (["0", "1"], [0, 1])
    assert "nowhere.json" in caplog.text
