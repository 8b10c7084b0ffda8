"""Mutated datasets, overrides and checkpoints end in success or in one of the errors that are one line."""

import argparse
import copy
import importlib
import json
import math
import random
from contextlib import suppress

import pytest
from detectron2.config import LazyConfig
from detectron2.data import get_detection_dataset_dicts
from omegaconf import DictConfig, OmegaConf

from lors.checkpoints import Checkpointer
from lors.checkpoints.weights import write
from lors.data import check_records, register_coco
from lors.training.errors import MENDABLE, config_errors
from lors.training.overrides import apply_overrides
from runs import ROOT, arguments

JUNK = [
    *(None, True, -1, 0, 1, 7, 90, 1.5, math.nan, math.inf, 10**400, "", "1", "ä", [], [[]], {}, {"a": 1}),
    *([1, 2, 3, 4], [1, 2, 0, 4], [-5, -5, 300, 300], [1e30, 0, 1, 1], [[1, 2, 3, 4, 5, 6]]),
]


@pytest.fixture
def attempts(long):
    """The number of mutations of each kind; 5,000 in all in the long form."""
    return (
        {"dataset": 2500, "override": 1000, "checkpoint": 1500}
        if long
        else dict.fromkeys(("dataset", "override", "checkpoint"), 60)
    )


def outcome(action):
    """None, or the line that a user sees."""
    try:
        action()
    except MENDABLE as error:
        text = str(error)
        assert text
        return text
    return None


def places(node, parent=None, key=None):
    """Every (container, key) in nested dicts and lists."""
    if parent is not None:
        yield parent, key
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for child_key, child in list(children):
        yield from places(child, node, child_key)


def mutate_json(content, rng):
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(list(places(content)))
        what = rng.random()
        if what < 0.2:
            del container[key]
        elif what < 0.3 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = copy.deepcopy(rng.choice(JUNK))
    return json.dumps(content).encode()


def mutate_bytes(content, rng):
    content = bytearray(content)
    for _ in range(rng.randint(0, 5)):
        content[rng.randrange(min(len(content), rng.choice([60, 2000, 10**9])))] = rng.randrange(256)
    if rng.random() < 0.3:
        del content[rng.randrange(len(content)) :]
    if rng.random() < 0.1:
        at = rng.randrange(len(content) + 1)
        content[at:at] = rng.randbytes(rng.randint(1, 50))
    return bytes(content)


def test_datasets(attempts, data, tmp_path):
    good = json.loads((data / "train.json").read_text())
    good["images"], kept = good["images"][:4], {image["id"] for image in good["images"][:4]}
    good["annotations"] = [a for a in good["annotations"] if a["image_id"] in kept]
    refused = 0
    for number in range(attempts["dataset"]):
        rng = random.Random(number)
        file = tmp_path / f"{number}.json"
        if rng.random() < 0.8:
            file.write_bytes(mutate_json(good, rng))
        else:
            file.write_bytes(mutate_bytes(json.dumps(good).encode(), rng))

        def read(file=file):
            name = register_coco(str(file), str(data / "train"))
            records = get_detection_dataset_dicts(name, filter_empty=False)
            check_records(records, name, num_queries=60, on_bad_image="raise")

        refused += outcome(read) is not None
        file.unlink()
    assert 0.1 * attempts["dataset"] < refused < attempts["dataset"]


VALUES = [
    "null",
    "true",
    "-1",
    "0",
    "1",
    "2",
    "7",
    "0.5",
    "1e-3",
    "abc",
    "[]",
    "[1,2]",
    "{a:1}",
    "''",
    "'a b'",
    "nan",
]


def leaves(node, prefix=""):
    for key in node:
        if not OmegaConf.is_interpolation(node, key) and isinstance(node.get(key), DictConfig):
            yield from leaves(node[key], f"{prefix}{key}.")
        yield f"{prefix}{key}"


def mutate_override(keys, rng):
    key, value = rng.choice(keys), rng.choice(VALUES)
    if rng.random() < 0.2:
        letters = list(key)
        letters[rng.randrange(len(letters))] = rng.choice("aeiou._=[]{}$ ")
        key = "".join(letters)
    return f"{key}={value}" if rng.random() < 0.95 else key


class Ready(Exception):
    """Training is set up, and the first checkpoint would be read."""


def test_overrides(attempts, data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    train_net = importlib.import_module("train_net")

    def ready(*args, **kwargs):
        raise Ready

    monkeypatch.setattr(train_net.Checkpointer, "resume_or_load", ready)
    args = argparse.Namespace(resume=False)
    config_file, given = arguments(data, tmp_path)[1], arguments(data, tmp_path)[2:]
    # A mutation of these would write elsewhere or take another device.
    keys = [key for key in leaves(LazyConfig.load(str(ROOT / config_file))) if "output_dir" not in key]
    keys = [key for key in keys if not key.endswith("_target_")]
    refused = 0
    for number in range(attempts["override"]):
        rng = random.Random(number)
        more = [mutate_override(keys, rng) for _ in range(rng.randint(1, 2))]

        def set_up(more=more):
            with config_errors():
                cfg = apply_overrides(LazyConfig.load(str(ROOT / config_file)), [*given, *more])
            with suppress(Ready):
                train_net.do_train(args, cfg)

        refused += outcome(set_up) is not None
    assert 0.1 * attempts["override"] < refused < attempts["override"]
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize("extension", ["pth", "safetensors", "pkl"])
def test_checkpoints(extension, attempts, tiny_model, tmp_path):
    model = tiny_model()
    file = tmp_path / f"model.{extension}"
    if extension == "pkl":
        import pickle

        state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        file.write_bytes(pickle.dumps({"model": state, "__author__": "someone"}))
    else:
        write(str(file), {"model": model.state_dict()})
    good = file.read_bytes()
    assert outcome(lambda: Checkpointer(model).load(str(file))) is None
    refused = 0
    for number in range(attempts["checkpoint"] // 3):
        file.write_bytes(mutate_bytes(good, random.Random(number)))
        refused += outcome(lambda: Checkpointer(model).load(str(file))) is not None
    assert refused > 0.1 * attempts["checkpoint"] // 3
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
