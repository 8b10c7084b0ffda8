"""A training's checkpoint, published by tools/publish.py, is the same detector by its name in the zoo."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib
import json
import logging
import shutil
import threading
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser

from lors import model_zoo
from lors.checkpoints import load_detector, read
from lors.errors import UserError
from runs import ROOT, arguments

NAME = "custom/tiny_cpu"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The output folder of a training of two iterations, with a moving average of the weights."""
    folder, more = tmp_path_factory.mktemp("output"), ["train.max_iter=2", "train.eval_period=2"]
    more += ["train.seed=3", "train.ema_decay=0.5", "model.criterion.giou_weight=1.5"]
    args = default_argument_parser().parse_args([*arguments(data, folder), *more])
    args.auto_scale, args.replay = False, None
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(str(ROOT))
        for name in ("detectron2", "fvcore", "lors"):  # which a training takes for its log.txt
            logger = logging.getLogger(name)
            for setting in ("propagate", "level"):
                patch.setattr(logger, setting, getattr(logger, setting))
            patch.setattr(logger, "handlers", [])
        importlib.import_module("train_net").main(args)
    return folder


@pytest.fixture
def publish(load_tool, monkeypatch):
    """Publishes into a folder, which LORS_MODEL_ZOO then names -> the published file."""

    def publish(trained: Path, folder: Path) -> Path:
        load_tool("publish").main([str(trained), "--to", str(folder)])
        monkeypatch.setenv("LORS_MODEL_ZOO", str(folder))
        return Path(model_zoo.get_checkpoint_url(NAME))

    return publish


def detections(model: torch.nn.Module, image: dict) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model([image])[0]["instances"]
    return [found.pred_boxes.tensor, found.scores, found.pred_classes]


def test_a_published_detector_is_the_trained_one(trained, publish, tmp_path, random_image, capsys):
    file, again = publish(trained, tmp_path / "again"), publish(trained, tmp_path / "zoo")
    assert file.name == again.name and file.read_bytes() == again.read_bytes()
    assert file.stem == f"model_final_{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    content, source = read(str(file)), read(str(trained / "model_final.pth"))
    assert set(content) == {"model", "about"}
    assert content["about"].items() >= source["about"].items()
    published = content["model"]["queries.content"]
    assert torch.equal(published, source["ema"]["module.queries.content"])
    assert not torch.equal(published, source["model"]["queries.content"])

    (entry,) = json.loads((tmp_path / "zoo" / "model_zoo.json").read_text()).values()
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    assert entry["AP"] == pytest.approx(next(x["bbox/AP"] for x in lines if "bbox/AP" in x), abs=0.01)
    assert entry["iterations"] == 2 and entry["seed"] == 3 and entry["file"] == file.name
    assert "model.criterion.giou_weight=1.5" in entry["overrides"]
    row = capsys.readouterr().out.splitlines()[-1]
    assert f"[{NAME}](configs/{NAME}.py)" in row and file.name in row

    image = random_image()
    expected = load_detector(str(ROOT / f"configs/{NAME}.py"), str(trained / "model_final.pth"))[1]
    model = model_zoo.get(NAME, trained=True, device="cpu")
    assert not model.training and len(model.queries.content) == 60 and model.decoder.num_classes == 10
    for ours, theirs in zip(detections(model, image), detections(expected.cpu(), image)):
        assert torch.equal(ours, theirs)


def test_a_zoo_may_lie_on_the_web(trained, publish, tmp_path, monkeypatch):
    file = publish(trained, tmp_path / "zoo")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "zoo")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("LORS_MODEL_ZOO", address + "/")
        monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
        assert model_zoo.get_checkpoint_url(NAME) == f"{address}/{NAME}/{file.name}"
        weights = model_zoo.get(NAME, trained=True).state_dict()
        assert torch.equal(weights["queries.content"].cpu(), read(str(file))["model"]["queries.content"])
        monkeypatch.setenv("LORS_MODEL_ZOO", f"{address}/nowhere")
        with pytest.raises(OSError, match="nowhere/model_zoo.json"):
            model_zoo.get(NAME, trained=True)
        server.shutdown()


def test_names_are_those_of_the_configs(trained, publish, tmp_path, monkeypatch):
    cfg = model_zoo.get_config("lors_r50_1x.py")
    assert cfg == LazyConfig.load(str(ROOT / "configs/lors_r50_1x.py"))
    assert not model_zoo.get("digits/lors_digits", device="cpu").training
    for name in ("lors_r50_1", "common/optim", "nothing"):
        with pytest.raises(UserError, match="lors_r50_1x"):
            model_zoo.get_config(name)
    monkeypatch.delenv("LORS_MODEL_ZOO", raising=False)
    with pytest.raises(UserError, match="LORS_MODEL_ZOO"):
        model_zoo.get_config("lors_r50_1x", trained=True)
    file = publish(trained, tmp_path)
    assert model_zoo.get_config(NAME, trained=True).train.init_checkpoint == str(file)
    with pytest.raises(UserError, match=f"there are {NAME}"):
        model_zoo.get("lors_r50_1x", trained=True)


def test_a_model_that_is_not_its_configs_is_not_published(trained, publish, tmp_path):
    other = shutil.copytree(trained, tmp_path / "output")
    log = (other / "log.txt").read_text()
    (other / "log.txt").write_text(log.replace("opts=['", "opts=['model.neck.num_groups=4', '"))
    with pytest.raises(SystemExit, match="error: .*model.neck.num_groups=4"):
        publish(other, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()
