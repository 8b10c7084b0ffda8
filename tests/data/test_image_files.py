"""Whether the image files are there, of the right size, and in another set too."""

import pytest
from PIL import Image
from small_coco import IMAGE, annotation, dataset

from lors.data.check import check
from lors.data.coco import check_image
from lors.data.images import in_both, read_image
from lors.data.problems import ERROR

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
    Image.new("RGB", (100, 80)).save(tmp_path / "3.tif", exif=turned)
    (tmp_path / "4.jpg").touch()
    names = ("1.jpg", "2.jpg", "3.tif", "4.jpg")
    content = dataset(images=[{"id": i, "file_name": n, "width": None} for i, n in enumerate(names, start=1)])
    found = [(p.kind, p.id) for p in check(content, str(tmp_path)) if p.kind != "no_boxes"]
    assert found == [*(("no_size", f"image {i}") for i in (1, 2, 3)), ("wrong_type", "image 4")]
    sizes = [(image["width"], image["height"]) for image in content["images"][:3]]
    assert sizes == [(100, 80), (80, 100), (80, 100)]
    assert [read_image(str(tmp_path / name)).shape[1::-1] for name in names[:3]] == sizes


def test_the_same_files_by_other_paths(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    for name in ("train/1.png", "train/2.png", "train/3.png", "val/2.png"):
        (tmp_path / name).write_text(name)
    (tmp_path / "val/1.png").symlink_to(tmp_path / "train/1.png")
    (tmp_path / "val/3.png").write_text("train/3.png")
    train, val = ([f"{tmp_path}/{folder}/{i}.png" for i in (1, 2, 3)] for folder in ("train", "val"))
    assert in_both(train, val) == [val[0], val[2]]
    assert in_both(train, [f"{tmp_path}/val/../train/2.png"]) == [f"{tmp_path}/val/../train/2.png"]
