from __future__ import annotations

import importlib
import random
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(min(2, torch.get_num_threads()))

# Below 16 channels a bfloat16 convolution of oneDNN, 1x1 and strided, writes past its memory (torch 2.14.1).
CHANNELS = (16, 20, 24, 28)


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)  # Detectron2's augmentations
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the drills in their long form (make drills)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a CUDA device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--long")


@pytest.fixture(scope="session")
def load_tool() -> Callable:
    """Imports a module of tools/ by its name."""

    def load(name: str) -> ModuleType:
        tools = str(Path(__file__).parent.parent / "tools")
        sys.path.insert(0, tools)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(tools)

    return load


@pytest.fixture
def run_tool(monkeypatch, capsys) -> Callable:
    """Runs a tool in this process; its exit code (or its one line about an error), and what it said."""

    def run(name: str, *arguments) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.chdir(Path(__file__).parent.parent)
        try:
            runpy.run_path(f"tools/{name}.py", run_name="__main__")
        except SystemExit as end:
            return end.code, capsys.readouterr().out
        return 0, capsys.readouterr().out

    return run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset in COCO format."""
    from lors.data.digits import write_dataset

    root = tmp_path_factory.mktemp("data") / "digits"
    write_dataset(root, {"train": 16, "test": 8})
    return root


@pytest.fixture(scope="session")
def tiny_model() -> Callable:
    """Builds a detector of two stages that runs in milliseconds."""
    return build_tiny_model


def build_tiny_bank(groups=(1, 2)):
    """LORS for the tiny decoder of two stages."""
    from lors import Bank, GeneratedLowRank, LowRank

    choices = dict(rank=2, init="released")
    return Bank(
        dict(
            channel=GeneratedLowRank((2, 4, 4), groups=groups, **choices),
            spatial=GeneratedLowRank((2, 4, 3), groups=groups, **choices),
            output=LowRank(**choices),
        )
    )


def build_tiny_decoder(bank="lors", **sizes):
    """`bank` is LORS's, or None for AdaMixer."""
    from lors.adamixer import Decoder

    defaults = dict(num_stages=2, query_dim=16, feature_dim=8, groups=2, points_in=4, points_out=3)
    defaults.update(num_classes=3, num_heads=2, ffn_dim=16)
    return Decoder(**{**defaults, **sizes}, bank=build_tiny_bank() if bank == "lors" else bank)


def build_tiny_model(
    bank="lors",
    *,
    num_queries: int = 6,
    num_classes: int = 3,
    max_detections: int = 10,
    fixed_statistics: bool = True,
):
    from lors.adamixer import AdaMixer, HungarianMatcher, Neck, Queries, SetCriterion

    backbone = ResNet(
        BasicStem(3, CHANNELS[0], norm="BN"),
        [
            ResNet.make_stage(
                BasicBlock,
                1,
                stride_per_block=[stride],
                in_channels=in_channels,
                out_channels=out_channels,
                norm="BN",
            )
            for stride, in_channels, out_channels in zip((1, 2, 2, 2), (CHANNELS[0], *CHANNELS), CHANNELS)
        ],
        out_features=["res2", "res3", "res4", "res5"],
    )
    return AdaMixer(
        backbone=backbone,
        in_features=["res2", "res3", "res4", "res5"],
        neck=Neck(CHANNELS, 8, num_groups=2),
        queries=Queries(num_queries, 16),
        decoder=build_tiny_decoder(bank, num_classes=num_classes),
        criterion=SetCriterion(HungarianMatcher()),
        pixel_mean=[120.0, 115.0, 105.0],
        pixel_std=[58.0, 57.0, 56.0],
        max_detections=max_detections,
        fixed_statistics=fixed_statistics,
    )


@pytest.fixture(scope="session")
def random_image() -> Callable:
    """Makes one of Detectron2's dataset dicts with `boxes` random ground-truth boxes."""
    return make_random_image


def make_random_image(boxes: int = 2, height: int = 50, width: int = 70, num_classes: int = 3) -> dict:
    from detectron2.structures import Boxes, Instances

    size = torch.tensor([width, height, width, height], dtype=torch.float32)
    low = torch.rand(boxes, 2) * 0.5
    truth = Instances(
        (height, width),
        gt_boxes=Boxes(torch.cat((low, low + 0.1 + torch.rand(boxes, 2) * 0.4), dim=1) * size),
        gt_classes=torch.randint(num_classes, (boxes,)),
    )
    return {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "instances": truth,
    }
