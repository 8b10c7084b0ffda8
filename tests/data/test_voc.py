"""Pascal VOC's folders as they are published, and XML files beside the images as LabelImg leaves them."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from lors.data import register_coco
from lors.data.check import check
from lors.data.classes import classes_of
from lors.data.voc import image_folder, read_voc
from lors.errors import UserError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def xml(name, *objects, size=(60, 40)):
    inside = "".join(OBJECT.format(name=n, box=box, difficult=d) for n, box, d in objects)
    return (
        f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size>{inside}</annotation>"
    )


ROTATED = xml("0.jpg", ("red", (1, 2, 3, 4), 0)).replace("bndbox", "robndbox")


@pytest.fixture
def voc(tmp_path):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for i, objects in enumerate(
        ([("red", (11, 6, 30, 25), 0)], [("blue", (1, 1, 60, 40), 0), ("red", (5, 5, 9, 9), 1)])
    ):
        Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / f"{i}.jpg")
        (tmp_path / "Annotations" / f"{i}.xml").write_text(xml(f"{i}.jpg", *objects))
    (tmp_path / "ImageSets/Main/train.txt").write_text("0\n1\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("1 -1\n")
    before = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_published_folder(voc):
    for path in (voc, voc / "Annotations", voc / "ImageSets/Main/train.txt"):
        assert image_folder(str(path)) == str(voc / "JPEGImages")
        content, _ = read_voc(str(path), str(voc / "JPEGImages"))
        assert [image["file_name"] for image in content["images"]] == ["0.jpg", "1.jpg"]
        assert content["categories"] == [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
        # Its first pixel is 1 and its last one belongs to the box.
        boxes = [(a["image_id"], a["category_id"], a["bbox"], a["ignore"]) for a in content["annotations"]]
        assert boxes == [
            (1, 2, [10, 5, 20, 20], 0),
            (2, 1, [0, 0, 60, 40], 0),
            (2, 2, [4, 4, 5, 5], 1),
        ]


def test_registered(voc, caplog):
    name = register_coco(str(voc / "ImageSets/Main/val.txt"), "")
    assert classes_of(name).names == ["blue", "red"]
    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == str(voc / "JPEGImages" / "1.jpg")
    assert [a["iscrowd"] for a in record["annotations"]] == [0, 1]
    assert "1 ignore (made a crowd" in caplog.text


def test_files_beside_their_images(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "photo 1.PNG")
    (tmp_path / "photo 1.xml").write_text(xml("C:\\x\\other.jpg", ("red", (1, 1, 5, 5), 0), size=(0, 0)))
    content, _ = read_voc(str(tmp_path), image_folder(str(tmp_path)))
    assert "no_size" in [problem.kind for problem in check(content, str(tmp_path))]
    assert content["images"] == [{"id": 1, "file_name": "photo 1.PNG", "width": 60, "height": 40}]


def test_an_image_is_not_the_labels_or_the_mask_beside_it(tmp_path):
    for name in ("0.jpg", "1.jpg", "1.png", "2.jpg", "2.png"):
        Image.new("RGB", (60, 40)).save(tmp_path / name)
    for name in ("0.txt", "0.json"):
        (tmp_path / name).touch()
    for i in range(2):
        (tmp_path / f"{i}.xml").write_text(xml(f"{i}.jpg", ("red", (1, 1, 5, 5), 0)))
    content, problems = read_voc(str(tmp_path), str(tmp_path))
    assert [image["file_name"] for image in content["images"]] == ["0.jpg", "1.jpg"]
    assert [problem.id for problem in problems] == ["2.jpg", "2.png"]
    (tmp_path / "2.xml").write_text(xml("other.jpg", ("red", (1, 1, 5, 5), 0)))
    with pytest.raises(UserError, match=r"2\.jpg or 2\.png"):
        read_voc(str(tmp_path), str(tmp_path))


def test_what_other_systems_and_tools_leave_is_read(voc):
    annotations = voc / "Annotations"
    (annotations / "._0.xml").write_bytes(b"\0\5\x16\7")
    (annotations / "0.xml").rename(annotations / "0.XML")
    (annotations / "1.xml").write_text(xml("1.jpg", ("\n  red ", (5, 5, 9, 9), 0)))
    (annotations / "a 1.xml").write_text(xml("a 1.jpg"))
    (voc / "ImageSets/Main/train.txt").write_text("1.jpg\na 1\n")
    whole, _ = read_voc(str(voc), str(voc / "JPEGImages"))
    assert [image["file_name"] for image in whole["images"]] == ["0.jpg", "1.jpg", "a 1.jpg"]
    assert whole["categories"] == [{"id": 1, "name": "red"}]
    listed, _ = read_voc(str(voc / "ImageSets/Main/train.txt"), str(voc / "JPEGImages"))
    assert [image["file_name"] for image in listed["images"]] == ["1.jpg", "a 1.jpg"]


@pytest.mark.parametrize("name", ["images", "Images"])
def test_images_under_another_name(voc, name):
    (voc / "JPEGImages").rename(voc / name)
    assert image_folder(str(voc)) == str(voc / name)


def test_images_without_an_xml_file(voc, caplog):
    for name in ("a.jpg", "b.PNG", "notes.txt", "._0.jpg"):
        (voc / "JPEGImages" / name).touch()
    _, problems = read_voc(str(voc), str(voc / "JPEGImages"))
    assert [(problem.kind, problem.id) for problem in problems] == [("no_xml", "a.jpg"), ("no_xml", "b.PNG")]
    assert read_voc(str(voc / "ImageSets/Main/train.txt"), str(voc / "JPEGImages"))[1] == []
    register_coco(str(voc), "")
    assert "2 no_xml (left out; a.jpg" in caplog.text


def test_xml_files_of_other_programs_are_left_out(voc, caplog):
    (voc / "Annotations" / "project.xml").write_text("<project/>")
    (voc / "Annotations" / "0.xml").write_text(xml("0.jpg", ("red", (50, 30, 70, 39), 0)))
    register_coco(str(voc), "")
    assert "1 not_voc (left out; project.xml" in caplog.text
    assert "1 partly_outside (clipped; 0.jpg:" in caplog.text


@pytest.mark.parametrize(
    "name, text, reason",
    [
        ("Annotations/0.xml", "<annotation>", "0.xml: not an annotation"),
        ("Annotations/0.xml", xml("0.jpg", ("red", ("a", 1, 2, 3), 0)), "0.xml: not an annotation"),
        ("Annotations/0.xml", ROTATED, "0.xml: .*robndbox"),
        ("ImageSets/Main/train.txt", "7\n", "there is no .*7.xml"),
        ("ImageSets/Main/train.txt", "\n", "there are no XML files"),
        ("train.txt", "0\n", "train.txt: there is no .*Annotations"),
    ],
)
def test_what_is_none(voc, name, text, reason):
    (voc / name).write_text(text)
    with pytest.raises(UserError, match=reason):
        register_coco(str(voc / (name if name.endswith(".txt") else "ImageSets/Main/train.txt")), "")
