"""What the project relies on in Detectron2; holds for the real one and for detectron2_light."""

from __future__ import annotations

import copy
import json
import logging
from argparse import Namespace
from pathlib import Path

import detectron2
import numpy as np
import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase, SimpleTrainer, hooks, launch
from detectron2.engine.defaults import default_argument_parser, default_setup, default_writers
from detectron2.evaluation import COCOEvaluator, inference_on_dataset, print_csv_format
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import Boxes, BoxMode, ImageList, Instances
from detectron2.utils.env import seed_all_rng
from fvcore.common.param_scheduler import MultiStepParamScheduler
from PIL import Image
from torch import nn

from lors.data import Mapper

IS_LIGHT = detectron2.__version__ == "0.6+light"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# Configs


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "common" / "data").mkdir(parents=True)
    (tmp_path / "common" / "train.py").write_text("train = dict(max_iter=100, opts=[1, 2])\n")
    (tmp_path / "common" / "data" / "coco.py").write_text(
        "from ..train import train as _train\ndataloader = dict(batch=16, steps=_train.max_iter)\n"
    )
    (tmp_path / "a.py").write_text(
        "from torch import nn\n"
        "from detectron2.config import LazyCall as L\n"
        "from .common.data.coco import dataloader\n"
        "from .common.train import train\n"
        "train.max_iter = 7\n"
        "model = L(nn.Linear)(in_features=4, out_features='${train.max_iter}', bias=False)\n"
        "_private = dict(x=1)\n"
    )
    return tmp_path


def test_config_files_get_copies_of_what_they_import(configs: Path) -> None:
    cfg = LazyConfig.load(str(configs / "a.py"))
    assert sorted(cfg) == ["dataloader", "model", "train"]
    assert (cfg.train.max_iter, cfg.dataloader.steps) == (7, 100)
    cfg.train.opts.append(3)
    common = LazyConfig.load(str(configs / "common/train.py")).train
    assert common == {"max_iter": 100, "opts": [1, 2]}
    assert LazyConfig.load(str(configs / "a.py")).train.opts == [1, 2]


def test_overrides_and_saving(configs: Path) -> None:
    cfg = LazyConfig.load(str(configs / "a.py"))
    LazyConfig.apply_overrides(cfg, ["train.max_iter=3", "train.opts=[4,5]", "train.lr=1e-3"])
    assert cfg.train == {"max_iter": 3, "opts": [4, 5], "lr": 1e-3}
    LazyConfig.save(cfg, str(configs / "saved.yaml"))
    saved = yaml.safe_load((configs / "saved.yaml").read_text())
    assert saved["train"] == cfg.train
    assert saved["model"]["_target_"].endswith(".Linear")


def test_instantiate() -> None:
    inner = LazyCall(Namespace)(name="${...dataset.json}")
    built = instantiate(LazyCall(Namespace)(dataset=LazyCall(Namespace)(json="q"), parts=[inner], n=None))
    assert built.parts[0] == Namespace(name="q")
    assert type(built.parts).__name__ == "ListConfig"
    assert instantiate({"a": 1}) == {"a": 1}
    with pytest.raises(TypeError):
        instantiate(LazyCall(nn.Linear)(nonsense=1))


def test_augmentations_from_a_config() -> None:
    resize = LazyCall(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)
    augmentations = [resize, LazyCall(T.RandomFlip)()]
    cfg = LazyCall(Mapper)(is_train=True, augmentations=augmentations, image_format="RGB")
    augs = instantiate(cfg).augmentations.augs
    assert [type(aug) for aug in augs] == [T.ResizeShortestEdge, T.RandomFlip]


# Layers and models


def test_resnet() -> None:
    torch.manual_seed(0)
    stem = BasicStem(norm="BN")
    stages = ResNet.make_default_stages(50, stride_in_1x1=False, norm="BN")
    assert [block.conv2.stride for block in stages[1][:2]] == [(2, 2), (1, 1)]
    model = ResNet(stem, stages, out_features=["res2", "res5"], freeze_at=2)
    keys = list(model.state_dict())
    assert len(keys) == 318
    assert keys[:2] == ["stem.conv1.weight", "stem.conv1.norm.weight"]
    assert {"res2.0.shortcut.norm.running_var", "res5.2.conv3.weight"} < set(keys)
    shapes = {k: (v.channels, v.stride) for k, v in model.output_shape().items()}
    assert shapes == {"res2": (256, 4), "res5": (2048, 32)}
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}
    outputs = model(torch.randn(1, 3, 64, 96))
    assert outputs["res2"].shape == (1, 256, 16, 24)
    assert outputs["res5"].shape == (1, 2048, 2, 3)
    # Drawn in the same order by both runtimes.
    assert stem.conv1.weight[0, 0, 0, 0].item() == pytest.approx(0.04843748, abs=1e-7)
    assert stages[1][0].conv2.weight[0, 0, 0, 0].item() == pytest.approx(0.08253889, abs=1e-7)


def test_freezing_batch_norm() -> None:
    stages = [
        ResNet.make_stage(
            BasicBlock, 2, stride_per_block=[stride, 1], in_channels=c, out_channels=64 * stride, norm="BN"
        )
        for c, stride in ((64, 1), (64, 2), (128, 4))
    ]
    model = ResNet(BasicStem(), stages, out_features=["res3"], freeze_at=0)
    assert [name for name, _ in model.named_children()] == ["stem", "res2", "res3"]
    for norm in (m for m in model.res2.modules() if isinstance(m, nn.BatchNorm2d)):
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(value)
    x = torch.randn(2, 64, 8, 8)
    expected = copy.deepcopy(model.res2).eval()(x)
    for block in model.res2:
        block.freeze()
    norms = [type(block.conv1.norm).__name__ for block in (model.res2[1], model.res3[0])]
    assert norms == ["FrozenBatchNorm2d", "BatchNorm2d"]
    assert not any(p.requires_grad for p in model.res2.parameters())
    torch.testing.assert_close(model.res2(x), expected, rtol=1e-4, atol=1e-4)


# Structures


def test_boxes_and_instances() -> None:
    boxes = Boxes(torch.tensor([[0, 0, 10, 20], [-5, 3, 200, 400], [5, 5, 5, 9]]))
    assert boxes.nonempty().tolist() == [True, True, False]
    instances = Instances((100, 50), pred_boxes=boxes, scores=torch.tensor([0.5, 0.25, 1.0]))
    assert instances[instances.scores < 0.6].pred_boxes.tensor.shape == (2, 4)
    with pytest.raises(AssertionError):
        instances.labels = torch.zeros(2)
    with pytest.raises(AttributeError):
        instances.labels  # noqa: B018
    xywh = BoxMode.convert([1.0, 2.0, 4.0, 6.0], BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert xywh == [1, 2, 3, 4]


def test_image_list() -> None:
    images = ImageList.from_tensors([torch.ones(3, 5, 7), torch.ones(3, 6, 4)], 4)
    assert images.tensor.shape == (2, 3, 8, 8)
    assert images.image_sizes == [(5, 7), (6, 4)]
    assert images.tensor.sum() == 3 * (35 + 24)


# Data


@pytest.mark.parametrize(
    ("h", "w", "size", "max_size", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),
        (640, 480, 800, 1333, (1067, 800)),
        (400, 1000, 800, 1333, (533, 1333)),
        (333, 333, 480, 1333, (480, 480)),
    ],
)
def test_resize_shortest_edge(h: int, w: int, size: int, max_size: int, expected: tuple) -> None:
    aug_input = T.AugInput(np.zeros((h, w, 3), np.uint8))
    T.ResizeShortestEdge([size], max_size, "choice")(aug_input)
    assert aug_input.image.shape == (*expected, 3)


def test_resize_shortest_edge_between_two() -> None:
    np.random.seed(1)
    heights = []
    for _ in range(5):
        aug_input = T.AugInput(np.zeros((20, 40, 3), np.uint8))
        T.ResizeShortestEdge([10, 30], 100)(aug_input)
        heights.append(aug_input.image.shape[0])
    assert heights == [15, 21, 22, 18, 19]


def test_flip() -> None:
    aug_input = T.AugInput(np.arange(24, dtype=np.uint8).reshape(4, 6))
    flip = T.RandomFlip(prob=1.0)(aug_input)
    assert aug_input.image[0].tolist() == [5, 4, 3, 2, 1, 0]
    assert flip.apply_box(np.array([[0.0, 0, 1, 1]])).tolist() == [[5, 0, 6, 1]]
    T.RandomFlip(prob=0.0)(aug_input)
    assert aug_input.image[0].tolist() == [5, 4, 3, 2, 1, 0]
    flip = T.RandomFlip(prob=1.0, horizontal=False, vertical=True)(aug_input)
    assert aug_input.image[:, 0].tolist() == [23, 17, 11, 5]
    assert flip.apply_box(np.array([[0.0, 0, 1, 1]])).tolist() == [[0, 3, 1, 4]]


def test_random_augmentations_draw_the_same_numbers() -> None:
    image = np.random.RandomState(0).randint(0, 255, (40, 60, 3)).astype(np.uint8)
    np.random.seed(1)
    aug_input = T.AugInput(image)
    resize = T.ResizeShortestEdge(range(20, 51), 70, "choice")
    crop = T.RandomCrop("absolute_range", (20, 50))
    T.AugmentationList([resize, crop, T.RandomFlip()])(aug_input)
    assert (aug_input.image.shape, int(aug_input.image.sum())) == ((23, 32, 3), 279290)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Six images, three of them wide, with category ids that have gaps."""
    rng = np.random.RandomState(0)
    images, annotations = [], []
    for i in range(6):
        height, width = (30, 45) if i % 2 else (50, 28)
        pixels = rng.randint(0, 255, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        images.append(dict(id=10 + i, file_name=f"{i}.png", height=height, width=width))
        for j in range(i % 4):
            box = [*(rng.rand(2) * 10).tolist(), *(rng.rand(2) * 15 + 2).tolist()]
            annotation = dict(image_id=10 + i, category_id=[3, 7, 20][(i + j) % 3], bbox=box)
            number = len(annotations) + 1
            annotation.update(id=number, area=box[2] * box[3], iscrowd=int(i == 5))
            annotations.append(annotation)
    categories = [dict(id=7, name="b"), dict(id=3, name="a"), dict(id=20, name="c")]
    content = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / "data.json").write_text(json.dumps(content))
    name = f"toy_{tmp_path.name}"
    register_coco_instances(name, {}, str(tmp_path / "data.json"), str(tmp_path))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_coco_json(dataset: str) -> None:
    dicts = DatasetCatalog.get(dataset)
    metadata = MetadataCatalog.get(dataset)
    assert metadata.thing_classes == ["a", "b", "c"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 20: 2}
    assert [len(d["annotations"]) for d in dicts] == [0, 1, 2, 3, 0, 1]
    assert [a["category_id"] for a in dicts[3]["annotations"]] == [0, 1, 2]
    first = dicts[1]["annotations"][0]
    assert set(first) == {"iscrowd", "bbox", "category_id", "bbox_mode"}
    assert first["bbox_mode"] == BoxMode.XYWH_ABS
    usable = get_detection_dataset_dicts(dataset, filter_empty=True)
    assert [d["image_id"] for d in usable] == [11, 12, 13]
    with pytest.raises(AssertionError):
        metadata.thing_classes = ["x"]
    with pytest.raises(KeyError):
        DatasetCatalog.get("nothing of that name")
    assert len(MetadataCatalog.get("coco_2017_val").thing_classes) == 80
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    assert (len(ids), ids[1], ids[13], ids[44], ids[90]) == (80, 0, 11, 39, 79)


# Evaluation


class FromTruth(nn.Module):
    """Finds what the dataset tells, each box moved by `shift` pixels."""

    def __init__(self, dataset: str, shift: float) -> None:
        super().__init__()
        self.dicts = {d["image_id"]: d for d in DatasetCatalog.get(dataset)}
        self.shift = shift

    def forward(self, batch: list[dict]) -> list[dict]:
        assert not self.training and not torch.is_grad_enabled()
        outputs = []
        for item in batch:
            annotations = self.dicts[item["image_id"]]["annotations"]
            boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
            boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            instances = Instances((item["height"], item["width"]))
            instances.pred_boxes = Boxes(boxes + self.shift)
            instances.scores = torch.linspace(0.9, 0.5, len(annotations))
            instances.pred_classes = torch.tensor([a["category_id"] for a in annotations]).long()
            outputs.append({"instances": instances})
        return outputs


def evaluate(dataset: str, shift: float, output_dir: Path) -> dict:
    mapper = Mapper(False, augmentations=[], image_format="RGB")
    loader = build_detection_test_loader(DatasetCatalog.get(dataset), mapper=mapper, batch_size=2)
    evaluator = COCOEvaluator(dataset, output_dir=str(output_dir))
    return inference_on_dataset(FromTruth(dataset, shift), loader, evaluator)


def test_evaluation(dataset: str, tmp_path: Path) -> None:
    perfect = evaluate(dataset, 0, tmp_path)["bbox"]
    assert list(perfect) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-a", "AP-b", "AP-c"]
    assert (perfect["AP"], perfect["AP-a"]) == pytest.approx((100, 100))
    assert np.isnan(perfect["APl"])
    saved = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {detection["category_id"] for detection in saved} == {3, 7, 20}
    shifted = evaluate(dataset, 0.6, tmp_path)["bbox"]
    found = [shifted[name] for name in ("AP", "AP50", "AP75", "AP-b")]
    expected = [51.78217821782178, 100, 42.07920792079208, 50.1980198019802]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("limit", [None, 100, 101])
def test_detections_beyond_the_limit_do_not_count(dataset: str, tmp_path: Path, limit: int | None) -> None:
    record = DatasetCatalog.get(dataset)[1]
    (truth,) = record["annotations"]
    right = BoxMode.convert(truth["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    found = Instances((record["height"], record["width"]))
    found.pred_boxes = Boxes(torch.tensor([[30.0, 20.0, 31.0, 21.0]] * 100 + [right]))
    found.scores = torch.linspace(0.9, 0.5, 101)
    found.pred_classes = torch.full((101,), truth["category_id"])
    evaluator = COCOEvaluator(dataset, output_dir=str(tmp_path), max_dets_per_image=limit)
    evaluator.reset()
    evaluator.process([record], [{"instances": found}])
    assert (evaluator.evaluate()["bbox"]["AP"] > 0) == (limit == 101)


def test_result_lines() -> None:
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("detectron2")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    print_csv_format({"bbox": {"AP": 12.34567, "AP50": float("nan"), "AP-cat": 1.0}})
    logger.setLevel(level)
    logger.removeHandler(handler)
    assert lines == ["copypaste: Task: bbox", "copypaste: AP,AP50", "copypaste: 12.3457,nan"]


# Solver, checkpoints and training


def test_warmup() -> None:
    multiplier = MultiStepParamScheduler([1, 0.1], milestones=[15], num_updates=20)
    schedule = WarmupParamScheduler(multiplier, warmup_factor=0.1, warmup_length=0.5)
    values = [schedule(i / 20) for i in (0, 5, 9, 10, 14, 15, 19)]
    assert values == pytest.approx([0.1, 0.55, 0.91, 1, 1, 0.1, 0.1])


def test_parameter_groups() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    model.add_module("again", model[0])
    model.frozen = nn.Linear(2, 2).requires_grad_(False)
    (everything,) = get_default_optimizer_params(model)
    assert [p.shape for p in everything["params"]] == [(2, 2), (2,), (2,), (2,)]
    table = {"bias": {"weight_decay": 0.5}}
    groups = get_default_optimizer_params(model, weight_decay_norm=0.0, overrides=table)
    found = [(group.get("weight_decay"), len(group["params"])) for group in groups]
    assert found == [(None, 1), (0.5, 2), (0.0, 1)]


def test_settings_that_come_to_the_same_are_one_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Conv2d(2, 3, 1))
    groups = get_default_optimizer_params(
        model,
        base_lr=0.5,
        weight_decay_norm=0.0,
        overrides={"bias": {"weight_decay": 0.0}},
        lr_factor_func=lambda name: 0.1 if name.startswith("2.") else 1.0,
    )
    found = [(group["lr"], group.get("weight_decay"), len(group["params"])) for group in groups]
    assert found == [(0.5, None, 1), (0.5, 0.0, 3), (0.05, None, 1), (0.05, 0.0, 1)]
    (group,) = get_default_optimizer_params(model, base_lr=0.5)
    assert group["lr"] == 0.5


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, batch: torch.Tensor) -> dict:
        out = self.layers(batch)
        return {"loss_a": out.pow(2).mean(), "loss_b": out.abs().mean()}


class StopAfter(HookBase):
    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.iterations < 20:
            raise KeyboardInterrupt


class Scores(HookBase):
    def after_step(self) -> None:
        if self.trainer.iter + 1 == 10:
            self.after_train()

    def after_train(self) -> None:
        if self.trainer.iter + 1 == 10 or self.trainer.iter + 1 >= self.trainer.max_iter:
            self.trainer.storage.put_scalars(**{"bbox/AP": 50.0 - self.trainer.iter}, smoothing_hint=False)


def train_toy(output_dir: Path, stop: int = 20, resume: bool = False) -> nn.Module:
    output_dir.mkdir(exist_ok=True)
    model = Toy()
    batches = [torch.randn(6, 3, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    trainer = SimpleTrainer(model, batches[10 if resume else 0 :], optimizer)
    checkpointer = DetectionCheckpointer(model, str(output_dir), trainer=trainer)
    multiplier = MultiStepParamScheduler([1, 0.1], milestones=[15], num_updates=20)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=WarmupParamScheduler(multiplier, 0.1, 0.5)),
            hooks.PeriodicCheckpointer(checkpointer, 10),
            Scores(),
            hooks.PeriodicWriter(default_writers(str(output_dir), 20), period=5),
            StopAfter(stop),
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    assert start == (10 if resume else 0)
    try:
        trainer.train(start, 20)
    except KeyboardInterrupt:
        pass
    return model


@pytest.mark.parametrize("hook_states", [{}, {"LRScheduler": {"base_lrs": [0.01], "last_epoch": 10}}])
def test_training_resumes_exactly(tmp_path: Path, hook_states: dict) -> None:
    whole = train_toy(tmp_path / "whole").state_dict()
    train_toy(tmp_path / "parts", stop=10)
    path = tmp_path / "parts" / "model_0000009.pth"
    content = torch.load(path, weights_only=True)
    content["trainer"]["hooks"] = hook_states
    torch.save(content, path)
    parts = train_toy(tmp_path / "parts", resume=True).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    saved = torch.load(tmp_path / "whole" / "model_final.pth", weights_only=True)
    assert set(saved) == {"model", "trainer", "iteration"}
    assert set(saved["trainer"]) - {"hooks"} == {"iteration", "optimizer"}
    assert saved["iteration"] == saved["trainer"]["iteration"] == 19


def test_metrics(tmp_path: Path) -> None:
    train_toy(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [4, 9, 14, 19, 20]
    usual = "data_time eta_seconds iteration loss_a loss_b lr rank_data_time time total_loss"
    assert set(rows[0]) == set(usual.split())
    assert set(rows[1]) == {*usual.split(), "bbox/AP"}
    assert set(rows[4]) == {"bbox/AP", "iteration"}
    assert [row["lr"] for row in rows[:4]] == pytest.approx([0.0046, 0.0091, 0.01, 0.001])
    # Medians of the values so far.
    losses = [row["total_loss"] for row in rows[:4]]
    assert losses == pytest.approx([0.480221, 0.456758, 0.372016, 0.31204], rel=1e-4)


def test_setup(configs: Path, tmp_path: Path) -> None:
    args = default_argument_parser().parse_args(["--config-file", str(configs / "a.py"), "a.b=1"])
    assert (args.num_gpus, args.resume, args.eval_only, args.opts) == (1, False, False, ["a.b=1"])
    cfg = LazyConfig.load(args.config_file)
    LazyConfig.apply_overrides(cfg, [f"train.output_dir={tmp_path / 'out'}", "train.seed=3"])
    default_setup(cfg, args)
    first = (torch.rand(1).item(), np.random.rand())
    seed_all_rng(3)
    assert first == (torch.rand(1).item(), np.random.rand())
    assert (tmp_path / "out" / "log.txt").stat().st_size > 0
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["train"]["seed"] == 3


def test_launch() -> None:
    seen = []
    launch(seen.append, 1, args=("called",))
    assert seen == ["called"]


@pytest.mark.skipif(not IS_LIGHT, reason="the real one runs several processes")
def test_launch_of_two_processes_is_an_error() -> None:
    with pytest.raises(SystemExit, match="https://github.com/facebookresearch/detectron2"):
        launch(lambda: None, 2)


def test_brightness_changes_by_a_weight():
    image = np.random.RandomState(0).randint(0, 256, (5, 6, 3)).astype(np.uint8)
    seen = T.AugInput(image.copy())
    T.RandomBrightness(0.5, 0.5)(seen)
    assert seen.image.dtype == np.uint8
    np.testing.assert_allclose(seen.image, image * 0.5, atol=1)
