import copy
import gzip
import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from lors.data import num_classes, register_coco, register_split
from lors.data.classes import Classes, classes_of
from lors.data.coco import with_classes
from lors.errors import UserError

CONTENT = {
    "images": [{"id": 5, "file_name": "a.png", "height": 20, "width": 30}],
    "annotations": [
        {
            "id": 1,
            "image_id": 5,
            "category_id": 9,
            "bbox": [1, 2, 3, 4],
            "area": 12,
            "iscrowd": 0,
        }
    ],
    "categories": [{"id": 9, "name": "zebra"}, {"id": 2, "name": "bear"}],
}


@pytest.fixture(autouse=True)
def catalogs():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write(folder, content=CONTENT):
    folder.mkdir(exist_ok=True)
    (folder / "images").mkdir()
    json_file = folder / "train.json"
    content = content if isinstance(content, (str, bytes)) else json.dumps(content)
    json_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(json_file), str(folder / "images")


def test_registered_data_loads_as_the_metadata_says(tmp_path):
    json_file, images = write(tmp_path)
    name = register_coco(json_file, images)
    meta = MetadataCatalog.get(name)
    assert meta.thing_classes == ["bear", "zebra"]
    assert meta.thing_dataset_id_to_contiguous_id == {2: 0, 9: 1}
    assert meta.evaluator_type == "coco"
    assert (meta.json_file, meta.image_root) == (json_file, images)

    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == f"{images}/a.png"
    (annotation,) = record["annotations"]
    assert annotation["bbox"] == [1, 2, 3, 4]
    assert meta.thing_classes[annotation["category_id"]] == "zebra"


def test_registering_twice_gives_the_same_name(tmp_path, monkeypatch):
    json_file, images = write(tmp_path)
    name = register_coco(json_file, images)
    assert register_coco(json_file, images) == name
    monkeypatch.chdir(tmp_path)
    assert register_coco("train.json", "images") == name
    monkeypatch.chdir("/")
    assert len(DatasetCatalog.get(name)) == 1


def test_equal_file_names_in_different_folders_are_different_datasets(tmp_path):
    other = {**CONTENT, "categories": [{"id": i, "name": str(i)} for i in (2, 9, 11)]}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first = register_coco(*write(tmp_path / "a" / "annotations"))
    second = register_coco(*write(tmp_path / "b" / "annotations", other))
    assert first != second
    assert (num_classes(first), num_classes(second)) == (2, 3)


def test_a_name_taken_by_another_dataset_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="coco_2017_val.* already registered"):
        register_coco(*write(tmp_path), name="coco_2017_val")


@pytest.mark.parametrize("argument, missing", [(0, "json_file"), (1, "image_root")])
@pytest.mark.parametrize("root", [None, "/some/where"])
def test_missing_paths(tmp_path, monkeypatch, argument, missing, root):
    if root is None:
        monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    else:
        monkeypatch.setenv("DETECTRON2_DATASETS", root)
    for path in ("no/such", "/no/such", ""):
        paths = list(write(tmp_path / f"set{len(path)}"))
        paths[argument] = path
        with pytest.raises(UserError) as error:
            register_coco(*paths)
        message = str(error.value)
        assert message.startswith(f"{missing} ") and (repr(path) in message) == (path != "")
        relative = path == "no/such"
        assert ("DETECTRON2_DATASETS" in message) == relative
        assert (repr(root) in message) == (relative and root is not None)
        assert "\n" not in message


@pytest.mark.parametrize(
    "content, problem",
    [
        ("{", "not a JSON file"),
        (b" \n", "it is empty"),
        (gzip.compress(b"{}", mtime=0), "gzip"),
        (b"PK\x03\x04\x14\0", "zip archive"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>", "HTML"),
        ([], 'no "images"'),
        ({**CONTENT, "images": []}, 'no "images"'),
        ({**CONTENT, "categories": []}, 'no "categories"'),
        ({"images": CONTENT["images"]}, 'no "categories"'),
    ],
)
def test_files_that_are_not_coco(tmp_path, content, problem):
    json_file, images = write(tmp_path, content)
    with pytest.raises(ValueError) as error:
        register_coco(json_file, images)
    assert json_file in str(error.value) and problem in str(error.value)
    assert "\n" not in str(error.value)


BOX = CONTENT["annotations"][0]


def changed(**fields):
    """The dataset with a second annotation: the first with other fields."""
    content = copy.deepcopy(CONTENT)
    content["annotations"].append({**BOX, "id": 2, **fields})
    return content


def test_all_errors_are_in_one_line(tmp_path):
    content = changed(bbox=[1, float("nan"), 3, 4])
    content["annotations"] += [{**BOX, "id": i, "category_id": 4} for i in (3, 4, 5)]
    json_file, images = write(tmp_path, content)
    with pytest.raises(ValueError) as error:
        register_coco(json_file, images)
    message = str(error.value)
    assert message.startswith(f"{json_file} cannot be used: ") and "\n" not in message
    assert "1 not_a_box (error; annotation 2: " in message and "nan" in message
    assert "3 unknown_category (error; annotation 3: category_id is 4, not one of [9, 2])" in message
    assert "tools/check_dataset.py" in message


def test_what_is_mended_is_logged_and_used(tmp_path, caplog):
    json_file, images = write(tmp_path, changed(bbox=[1, 2, 0, 4]))
    before = open(json_file).read()
    name = register_coco(json_file, images)
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING and "lors" in r.name]
    assert warning == f"{json_file}: 1 no_area (dropped; annotation 2: bbox is [1, 2, 0, 4])"
    (record,) = DatasetCatalog.get(name)
    assert [a["bbox"] for a in record["annotations"]] == [[1, 2, 3, 4]]
    assert open(json_file).read() == before
    assert register_coco(json_file, images) == name


def test_what_is_only_noted_leaves_the_file_in_use(tmp_path, caplog):
    content = {**CONTENT, "images": [*CONTENT["images"], {**CONTENT["images"][0], "id": 6}]}
    json_file, images = write(tmp_path, content)
    name = register_coco(json_file, images)
    assert caplog.text == ""
    assert MetadataCatalog.get(name).json_file == json_file
    assert [r["image_id"] for r in get_detection_dataset_dicts(name, filter_empty=True)] == [5]


def evaluate(name, folder, **options):
    """AP where each box of the registered dataset is found."""
    evaluator = COCOEvaluator(name, output_dir=str(folder), **options)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        found = Instances((record["height"], record["width"]))
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32).view(-1, 4)
        found.pred_boxes = Boxes(torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]]).long()
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()["bbox"]["AP"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": 0},
        {"id": 1},
        {"area": None},
        {"iscrowd": None},
        {"bbox": [1, 2, 3, 0]},
        {"bbox": [20, 2, 50, 4]},
        {"segmentation": [[]]},
        {"ignore": 1},
        {"image_id": 6},
    ],
    ids=str,
)
def test_what_is_mended_can_be_found(tmp_path, fields):
    name = register_coco(*write(tmp_path, changed(**{"bbox": [9, 8, 7, 6], **fields})))
    assert evaluate(name, tmp_path / "output") == pytest.approx(100)


def test_more_objects_than_coco_counts(tmp_path):
    image = {**CONTENT["images"][0], "width": 1000}
    boxes = [{**BOX, "id": i + 1, "bbox": [6 * i, 2, 4, 5]} for i in range(150)]
    name = register_coco(*write(tmp_path, {**CONTENT, "images": [image], "annotations": boxes}))
    assert evaluate(name, tmp_path) < 80
    assert evaluate(name, tmp_path, max_dets_per_image=150) == pytest.approx(100)


def test_image_ids_that_are_texts(tmp_path):
    content = {**CONTENT, "images": [{**CONTENT["images"][0], "id": "five"}]}
    content["annotations"] = [{**BOX, "image_id": "five"}]
    name = register_coco(*write(tmp_path, content))
    assert evaluate(name, tmp_path / "output") == pytest.approx(100)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_kinds_of_unicode(tmp_path, encoding, caplog):
    content = copy.deepcopy(CONTENT)
    content["categories"][0]["name"] = "zèbre"
    json_file, images = write(tmp_path)
    with open(json_file, "w", encoding=encoding) as file:
        json.dump(content, file, ensure_ascii=False)
    name = register_coco(json_file, images)
    assert "1 encoding (decoded" in caplog.text
    assert classes_of(name) == (["bear", "zèbre"], [2, 9])
    assert len(DatasetCatalog.get(name)) == 1


def two_classes(folder, zebra, bear, **more):
    """An image with a zebra left and a bear right, under these ids."""
    boxes = {zebra: [1, 2, 8, 9], bear: [15, 2, 8, 9]}
    content = {
        **CONTENT,
        "categories": [{"id": zebra, "name": "zebra"}, {"id": bear, "name": "bear"}],
        "annotations": [
            {**BOX, "id": i, "category_id": c, "bbox": b} for i, (c, b) in enumerate(boxes.items(), start=1)
        ],
        **more,
    }
    return register_coco(*write(folder, content))


def test_a_test_set_with_other_ids_is_scored_by_name(tmp_path):
    trained = classes_of(two_classes(tmp_path / "train", zebra=0, bear=1))
    assert trained == (["zebra", "bear"], [0, 1])
    test = two_classes(tmp_path / "test", zebra=7, bear=3)
    assert with_classes(two_classes(tmp_path / "same", zebra=5, bear=6), trained).startswith("same_")
    name = with_classes(test, trained)
    assert classes_of(name) == trained and with_classes(test, trained) == name
    (record,) = DatasetCatalog.get(name)
    assert [(a["category_id"], a["bbox"][0]) for a in record["annotations"]] == [(0, 1), (1, 15)]
    assert evaluate(name, tmp_path) == pytest.approx(100)


def test_a_test_set_with_fewer_classes(tmp_path):
    trained = classes_of(two_classes(tmp_path / "train", zebra=1, bear=2))
    few = {"categories": [{"id": 1, "name": "bear"}], "annotations": [{**BOX, "category_id": 1}]}
    name = with_classes(two_classes(tmp_path / "test", 1, 2, **few), trained)
    assert classes_of(name) == trained
    assert [a["category_id"] for a in DatasetCatalog.get(name)[0]["annotations"]] == [1]
    assert evaluate(name, tmp_path) == pytest.approx(100)


def test_a_test_set_with_classes_that_were_not_trained(tmp_path):
    name = two_classes(tmp_path / "test", zebra=1, bear=2)
    with pytest.raises(UserError, match="unknown_class .*'bear'; the model's classes are 'zebra', 'cow'"):
        with_classes(name, Classes(["zebra", "cow"], [1, 2]))


def many(folder, number=20):
    image = CONTENT["images"][0]
    content = {
        **CONTENT,
        "images": [{**image, "id": i, "file_name": f"{i}.jpg"} for i in range(number)],
        "annotations": [{**BOX, "id": i + 1, "image_id": i} for i in range(number)],
    }
    return write(folder, content)


def split(json_file, images, **more):
    dataset = dict(train_json=json_file, train_images=images, test_json="", test_images="", val_seed=0)
    dataset.update(val_fraction=0.0, crowds_as_objects=False)
    return [register_split(part, {**dataset, **more}) for part in ("train", "test")]


def test_paths_of_a_config_are_named_by_their_keys(tmp_path, monkeypatch):
    json_file, images = write(tmp_path)
    for key in ("train_json", "train_images", "test_json", "test_images"):
        files = {"test_json": json_file, "test_images": images}
        for wrong in ("/no/such", "" if key != "test_json" else "/no/such"):
            with pytest.raises(UserError, match=f"dataset.{key} "):
                split(json_file, images, **{**files, key: wrong})
    monkeypatch.setenv("HOME", str(tmp_path))
    names = split("~/train.json", "~/images", test_json="~/train.json", test_images="~/images")
    assert names == 2 * [register_coco(json_file, images)]


def test_a_share_of_the_training_images_is_the_test_set(tmp_path):
    files = many(tmp_path)

    def ids(names):
        return [{record["image_id"] for record in DatasetCatalog.get(name)} for name in names]

    names = split(*files, val_fraction=0.25)
    train, test = ids(names)
    assert train and test and train | test == set(range(20)) and not train & test
    assert split(*files, val_fraction=0.25) == names
    assert [[a["bbox"] for r in DatasetCatalog.get(n) for a in r["annotations"]] for n in names] == [
        len(train) * [BOX["bbox"]],
        len(test) * [BOX["bbox"]],
    ]
    # Neither the order of the file nor how many images it has matters.
    turned = json.loads(Path(files[0]).read_text())
    turned["images"].reverse()
    gone = turned["images"].pop()["id"]
    turned["annotations"] = [a for a in turned["annotations"] if a["image_id"] != gone]
    (tmp_path / "turned.json").write_text(json.dumps(turned))
    turned_names = split(str(tmp_path / "turned.json"), files[1], val_fraction=0.25)
    assert ids(turned_names) == [train - {gone}, test - {gone}]
    assert ids(split(*files, val_fraction=0.25, val_seed=1)) != [train, test]
    for wrong in ({"val_fraction": 1.0}, {"val_fraction": -0.1}, {"val_fraction": 0.1, "test_json": "x"}):
        with pytest.raises(UserError, match="dataset.val_fraction"):
            split(*files, **wrong)
    with pytest.raises(UserError, match="dataset.val_fraction leaves no image of 20"):
        split(*files, val_fraction=1e-4)


def test_the_share_of_many_images_is_as_asked(tmp_path):
    train, test = split(*many(tmp_path, 2000), val_fraction=0.25)
    assert len(DatasetCatalog.get(test)) == pytest.approx(500, abs=60)  # three standard deviations
    assert len(DatasetCatalog.get(train)) + len(DatasetCatalog.get(test)) == 2000


def test_the_augmented_copies_of_an_image_are_in_one_part(tmp_path):
    """As Roboflow names them."""
    json_file, images = many(tmp_path, 90)
    content = json.loads(Path(json_file).read_text())
    for i, image in enumerate(content["images"]):
        image["file_name"] = f"IMG_{i // 3}_jpg.rf.{i:08x}.jpg"
    Path(json_file).write_text(json.dumps(content))
    parts = [
        {record["image_id"] // 3 for record in DatasetCatalog.get(name)}
        for name in split(json_file, images, val_fraction=0.3)
    ]
    assert all(parts) and not parts[0] & parts[1]


def test_without_a_test_set_there_is_none(tmp_path):
    files = many(tmp_path)
    train, test = split(*files)
    assert len(DatasetCatalog.get(train)) == 20 and test is None


def test_crowds_as_objects(tmp_path, caplog):
    json_file, images = write(tmp_path, {**CONTENT, "annotations": [{**BOX, "iscrowd": 1}]})
    name = register_coco(json_file, images, crowds_as_objects=True)
    assert "1 crowd (made an object" in caplog.text
    assert len(get_detection_dataset_dicts(name)) == 1
    assert register_coco(json_file, images) != name


def test_a_test_set_without_annotations(tmp_path):
    content = {key: CONTENT[key] for key in ("images", "categories")}
    name = register_coco(*write(tmp_path, content))
    (record,) = get_detection_dataset_dicts(name, filter_empty=False)
    assert record["annotations"] == []
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts(name)


def test_num_classes_of_builtin_and_plainly_registered_datasets(tmp_path):
    assert num_classes("coco_2017_train") == 80
    register_coco_instances("plain", {}, *write(tmp_path))
    assert num_classes("plain") == 2


def test_num_classes_of_an_unknown_dataset():
    with pytest.raises(ValueError, match="'nowhere' is not registered"):
        num_classes("nowhere")
    assert "nowhere" not in MetadataCatalog.list()
