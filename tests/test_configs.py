"""Every config of the paper's tables: it builds and its size stays; each structure trains and infers."""

import gc
import json
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from lors.adamixer import DecoderStage
from lors.complexity import operations, parameters
from lors.sharing import LowRank

CONFIGS = Path(__file__).parent.parent / "configs"
TABLES = json.loads((CONFIGS / "paper_tables.json").read_text())
ROWS = [row for table in TABLES.values() for row in table["rows"] if "config" in row]
FILES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for folder in (CONFIGS, CONFIGS / "ablations")
    for path in folder.glob("*.py")
)

# Millions of parameters in the decoder, counted on the authors' programs or, for Tables 4 to 8, by formula.
DECODER = {
    "adamixer_2x64_r50_1x": 135.536,
    "ablations/table4_adaptive_only": 75.706,
    "ablations/table4_static_only": 95.179,
    "ablations/table5_shared_only": 32.018,
    "ablations/table5_private_only": 22.716,
    "ablations/table6_groups_111111_rank8": 32.456,
    "ablations/table6_groups_111111_rank16": 33.683,
    "ablations/table6_groups_222222_rank16": 35.348,
    "ablations/table6_groups_111111_rank32": 38.506,
    "ablations/table7_rank2": 34.159,
    "ablations/table7_rank4": 34.556,
    "ablations/table7_rank16": 36.933,
    "ablations/table7_rank32": 40.104,
    "ablations/table8_stages3": 28.184,
    "ablations/table8_stages9": 42.512,
    "ablations/table8_stages12": 49.676,
}
# The same for the whole model, and thousands of millions of operations in the decoder.
MODEL = {"adamixer_r50_1x": 134.791, "lors_r50_1x": 59.867, "adamixer_r101_300q_3x": 153.835}
OPERATIONS = {"adamixer_r50_1x": 12.09, "lors_r50_1x": 17.94}
# One of each structure: the others differ from them in numbers of queries, epochs, ranks and groups.
STRUCTURES = [
    "adamixer_r50_1x",
    "adamixer_2x64_r50_1x",
    "lors_r50_1x",
    "lors_r101_300q_3x",
    "adamixer_swin_s_300q_3x",
    "lors_swin_s_300q_3x",
    "ablations/table4_adaptive_only",
    "ablations/table4_static_only",
    "ablations/table5_shared_only",
    "ablations/table5_private_only",
    "ablations/table8_stages12",
]


@pytest.fixture(autouse=True)
def memory():
    """A config's nodes refer to each other, and what its optimiser was given lives as long as they."""
    yield
    gc.collect()


def test_each_row_of_the_tables_is_a_file_and_each_file_a_row():
    # One is no row: the plain shape that merging a LORS detector gives.
    assert FILES == sorted({row["config"] for row in ROWS} | {"adamixer_2x64_r50_1x"})


def load(name):
    return LazyConfig.load(str(CONFIGS / f"{name}.py"))


@pytest.mark.parametrize("name", FILES)
def test_what_a_config_builds(name):
    cfg = load(name)
    assert cfg.train.output_dir == "./output/" + name.split("/")[-1]
    with torch.device("meta"):
        model = instantiate(cfg.model)
    wanted = DECODER.get(name, 110.272 if "adamixer" in name else 35.348)
    assert parameters(model.decoder) / 1e6 == pytest.approx(wanted, abs=6e-4)
    if name in MODEL:
        # The authors' programs count the first boxes as well, 4 numbers for each query.
        first_boxes = 4 * cfg.model.queries.num_queries
        assert (parameters(model) + first_boxes) / 1e6 == pytest.approx(MODEL[name], abs=6e-4)
    assert len(model.queries.content) == model.max_detections == (300 if "300q" in name else 100)

    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer.params)
    optimised = {id(p) for group in groups for p in group["params"]}
    assert optimised == {id(p) for p in model.parameters() if p.requires_grad}
    cfg.train.max_iter = 12 * 7330
    assert instantiate(cfg.lr_multiplier)(1 - 1e-9) == pytest.approx(0.01)
    instantiate(cfg.dataloader.train.mapper)


@pytest.mark.parametrize("name", STRUCTURES)
def test_each_structure_trains_and_infers(name):
    cfg = load(name)
    model = instantiate(cfg.model)
    if name in OPERATIONS:
        assert operations(model)[0] / 1e9 == pytest.approx(OPERATIONS[name], rel=0.02)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    truth = Instances((64, 96))
    truth.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 56.0], [50.0, 10.0, 90.0, 30.0]]))
    truth.gt_classes = torch.tensor([3, 79])
    losses = model.train()([{"image": image, "instances": truth}])
    sum(losses.values()).backward()
    optimizer.step()
    assert len(losses) == 3 * len(model.decoder.stages)
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        found = model.eval()([{"image": image, "height": 128, "width": 192}])[0]["instances"]
    assert found.image_size == (128, 192)
    assert 0 < len(found) <= model.max_detections


def load_small():
    return load("digits/lors_digits").model


def predict_and_score(cfg) -> tuple[list, dict[str, torch.Tensor]]:
    """The decoder's output and the losses of a config's model, always with the same weights and image."""
    torch.manual_seed(0)
    model = instantiate(cfg).train()
    for parameter in model.decoder.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    seen = []
    model.decoder.register_forward_hook(lambda module, args, output: seen.extend(output))
    truth = Instances((64, 96))
    truth.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 56.0], [50.0, 10.0, 90.0, 30.0]]))
    truth.gt_classes = torch.tensor([3, 9])
    losses = model([{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8), "instances": truth}])
    return seen, {name: loss.detach() for name, loss in losses.items()}


def test_weights_of_the_losses_are_the_configs():
    expected, before = predict_and_score(load_small())
    cfg = load_small()
    cfg.criterion.update(class_weight=1.0, l1_weight=15.0, giou_weight=0.0)
    given, after = predict_and_score(cfg)
    assert all(torch.equal(a, b) for one, other in zip(given, expected) for a, b in zip(one, other))
    for i in range(4):
        for name, factor in (("cls", 1 / 2), ("bbox", 15 / 5), ("giou", 0)):
            assert before[f"loss_{name}_{i}"] > 0
            torch.testing.assert_close(after[f"loss_{name}_{i}"], factor * before[f"loss_{name}_{i}"])
    cfg = load_small()
    cfg.criterion.update(alpha=0.5, gamma=0.0)
    _, after = predict_and_score(cfg)
    for name, loss in before.items():
        assert torch.equal(after[name], loss) == ("cls" not in name)


@pytest.mark.parametrize("cost", ["class_cost", "l1_cost", "giou_cost"])
def test_weights_of_the_matching_costs_are_the_configs(cost):
    expected, before = predict_and_score(load_small())
    cfg = load_small()
    cfg.criterion.matcher[cost] = 1000.0
    given, after = predict_and_score(cfg)
    assert all(torch.equal(a, b) for one, other in zip(given, expected) for a, b in zip(one, other))
    assert any(not torch.equal(after[name], loss) for name, loss in before.items())


class Stage(DecoderStage):
    """With one more layer, as a user might write it."""

    def __init__(self, query_dim: int, **sizes) -> None:
        super().__init__(query_dim, **sizes)
        self.more = torch.nn.Linear(query_dim, query_dim)

    def forward(self, pyramid, content, xyzr):
        return super().forward(pyramid, content + self.more(content), xyzr)


@pytest.mark.parametrize("shared", [False, True])
def test_a_stage_of_ones_own(shared):
    expected, _ = predict_and_score(load_small())
    cfg = load_small()
    cfg.decoder.stage = Stage
    if shared:
        cfg.decoder.bank.residual.more = LazyCall(LowRank)(rank=2)
    decoder = instantiate(cfg).decoder
    assert len(decoder.stages) == 4 and all(isinstance(stage, Stage) for stage in decoder.stages)
    assert ("more.weight" in decoder.bank.residuals()) == shared
    given, losses = predict_and_score(cfg)
    assert not torch.equal(given[0][0], expected[0][0])
    assert len(losses) == 12 and all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    "name", ["lors_r50_1x", "ablations/table5_private_only", "ablations/table5_shared_only"]
)
def test_the_mixing_of_every_stage_learns_from_the_start(name):
    decoder = instantiate(load(name).model.decoder)
    features = [torch.randn(1, 256, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    whole = torch.tensor([48.0, 32, 6.3, -0.6]).expand(1, 20, 4)
    predictions = decoder(features, torch.randn(1, 20, 256), whole)
    sum(logits.square().sum() for logits, _ in predictions).backward()
    for part in ("channel", "spatial", "output"):
        residual = decoder.bank.residuals()[f"mixing.{part}.weight"]
        learns = {name for name, p in residual.named_parameters() if p.grad is not None and p.grad.any()}
        if residual.has_shared:
            assert "shared" in learns
        if residual.has_private:
            for i in range(6):
                first = {f"B.{i}"} if part == "output" else {f"E.{i}.weight", f"E.{i}.bias"}
                if not residual.has_shared:
                    first |= {f"A.{i}", f"B.{i}"}
                assert first <= learns


@pytest.mark.parametrize("backbone", ["r50", "swin_s"])
def test_what_does_not_decay(backbone):
    cfg = load(f"lors_{backbone}_300q_3x")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    cfg.optimizer.fused = False  # its kernel takes no meta tensors
    optimizer = instantiate(cfg.optimizer)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    kinds = {"norm": set(), "table": set(), "other": set()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "table" if "relative_position" in name else "norm" if "norm" in name else "other"
            kinds[kind].add(decay[id(parameter)])
    if backbone == "r50":
        assert kinds == {"norm": {1e-4}, "table": set(), "other": {1e-4}}
    else:
        assert kinds["table"] == kinds["norm"] == {0.0}
        assert 1e-4 in kinds["other"]


def test_the_crop_branch_keeps_boxes_with_their_image():
    mapper = load("lors_r50_3x").dataloader.train.mapper
    augmentation = T.AugmentationList(list(instantiate(mapper.augmentations)))
    sizes = set()
    for _ in range(40):
        image = torch.zeros(600, 900, 3, dtype=torch.uint8)
        image[200:300, 400:500] = 255
        seen = T.AugInput(image.numpy())
        box = augmentation(seen).apply_box(torch.tensor([[400.0, 200.0, 500.0, 300.0]]).numpy())[0]
        h, w = seen.image.shape[:2]
        sizes.add(min(h, w))
        x0, y0, x1, y1 = (int(v) for v in box.clip(0, [w, h, w, h]).round())
        if x1 - x0 > 8 and y1 - y0 > 8:
            assert seen.image[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3].min() == 255
    assert max(sizes) <= 800 and len(sizes) > 3


def test_other_programs_read_the_iterations_of_coco():
    train = load("lors_r50_1x").train
    assert (train.max_iter, train.eval_period, train.checkpointer.period) == (12 * 7330, 7330, 7330)
