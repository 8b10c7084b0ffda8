"""What a config means."""

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from lors.checkpoints import load_config
from lors.errors import UserError
from lors.training.errors import config_errors
from lors.training.setup import (
    auto_scale,
    choose_length,
    count_iterations,
    load_train_data,
    train_classes,
)
from runs import ROOT


@pytest.mark.parametrize(
    "config, content", [("adamixer_r50_1x", None), ("digits/lors_digits", 1e-2), ("custom/tiny_cpu", 1e-2)]
)
def test_auto_scale_scales_every_rate(config, content):
    cfg = LazyConfig.load(str(ROOT / f"configs/{config}.py"))
    batch, rate, gpus = cfg.dataloader.train.total_batch_size, cfg.optimizer.lr, cfg.train.reference_gpus
    auto_scale(cfg, gpus)
    assert (cfg.dataloader.train.total_batch_size, cfg.optimizer.lr) == (batch, rate)
    auto_scale(cfg, 2 * gpus)
    assert cfg.dataloader.train.total_batch_size == 2 * batch
    assert cfg.optimizer.lr == pytest.approx(2 * rate)
    if content:
        assert gpus == 1  # as they say
        assert cfg.optimizer.params.overrides.content.lr == pytest.approx(2 * content)


@pytest.mark.parametrize("name", ["r50_finetune", "timm_finetune"])
def test_a_trained_backbone_learns_at_a_tenth_of_the_rate(name, data):
    images = [f"dataset.train_json={data}/train.json", f"dataset.train_images={data}/train"]
    cfg = load_config(str(ROOT / f"configs/custom/{name}.py"), images)
    model, rates = rates_of(cfg)
    own = [rates[id(p)] for p in model.backbone.parameters() if p.requires_grad]
    assert own and own == pytest.approx([cfg.optimizer.lr / 10] * len(own))
    assert rates[id(model.decoder.stages[0].offsets.weight)] == cfg.optimizer.lr


def rates_of(cfg):
    """The model, and each parameter's learning rate."""
    model = cfg.optimizer.params.model = instantiate(cfg.model)
    groups = instantiate(cfg.optimizer).param_groups
    return model, {id(parameter): group["lr"] for group in groups for parameter in group["params"]}


def test_what_is_shared_and_what_is_private_have_rates_of_their_own():
    factors = [f"optimizer.params.lr_factor_func.{part}" for part in ("shared=0.5", "private=0.25")]
    cfg = load_config(str(ROOT / "configs/digits/lors_digits.py"), factors)
    model, rates = rates_of(cfg)
    lr = cfg.optimizer.lr
    for residual in model.decoder.bank.residuals().values():
        for name, parameter in residual.named_parameters():
            assert rates[id(parameter)] == pytest.approx(lr * (0.5 if name.startswith("shared") else 0.25))
    inside = set(map(id, model.decoder.bank.parameters()))
    rest = {id(p) for p in model.parameters()} - inside - {id(model.queries.content)}
    assert inside and {rates[key] for key in rest} == {lr}


def test_without_a_seed_each_training_has_its_own(data):
    images = [f"dataset.train_json={data}/train.json", f"dataset.train_images={data}/train", "train.seed=-1"]
    cfg = load_config(str(ROOT / "configs/custom/tiny_cpu.py"), images)
    model = instantiate(cfg.model)
    assert load_train_data(cfg, model)[0].seed != load_train_data(cfg, model)[0].seed


def counted(config, *overrides):
    """What is trained where an epoch has 7 iterations."""
    cfg = load_config(str(ROOT / f"configs/{config}.py"), overrides)
    choose_length(cfg, overrides)
    count_iterations(cfg, 7)
    return cfg.train


def test_one_of_epochs_and_iterations_is_set():
    assert counted("custom/r50_finetune").max_iter == 50 * 7
    assert counted("lors_r50_1x", "train.epochs=3").max_iter == 3 * 7
    assert counted("digits/lors_digits", "train.epochs=3").max_iter == 3 * 7
    assert counted("custom/r50_finetune", "train.max_iter=9").max_iter == 9
    cfg = load_config(str(ROOT / "configs/digits/lors_digits.py"))
    cfg.train.epochs = 3  # as a config of one's own may set it, and forget the iterations
    with pytest.raises(UserError, match="train.epochs, train.max_iter"):
        count_iterations(cfg, 7)


@pytest.mark.parametrize("config", ["lors_r50_1x", "custom/r50_finetune"])
@pytest.mark.parametrize("iterations", [50, 700, 9000])
def test_a_short_training_reaches_half_of_its_rate_at_least(config, iterations):
    cfg = load_config(str(ROOT / f"configs/{config}.py"), [f"train.max_iter={iterations}"])
    schedule = instantiate(cfg.lr_multiplier)
    assert 0.5 <= max(schedule(i / iterations) for i in range(iterations)) <= 1


@pytest.fixture
def registered(data):
    """Registers functions that make datasets of one class."""
    names = []

    def register(make, classes=("one",)):
        names.append(f"registered_{len(names)}")
        DatasetCatalog.register(names[-1], make)
        MetadataCatalog.get(names[-1]).thing_classes = list(classes)
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def loaded(names, num_classes=1):
    """The files of the images that are trained on, and the model's classes."""
    cfg = load_config(str(ROOT / "configs/lors_r50_1x.py"), [f"model.decoder.num_classes={num_classes}"])
    cfg.model = load_config(str(ROOT / "configs/digits/lors_digits.py")).model
    cfg.model.decoder.num_classes = num_classes
    cfg.dataloader.train.dataset.names = names
    model = instantiate(cfg.model)
    with config_errors():
        return load_train_data(cfg, model)[1], train_classes(cfg, model).names


def test_several_datasets_are_trained_on_together(registered, data):
    box = dict(bbox=[1, 2, 3, 4], bbox_mode=BoxMode.XYWH_ABS, category_id=0)
    files = [f"{data}/train/00000{i}.png" for i in (1, 2)]
    made = [[dict(file_name=f, image_id=0, width=160, height=160, annotations=[box])] for f in files]
    names = [registered(lambda records=records: records) for records in made]
    assert loaded(names) == (files, ["one"])
    other = registered(lambda: made[0], classes=["two"])
    with pytest.raises(UserError, match="thing_classes"):
        loaded([*names, other])


def test_what_a_dataset_of_ones_own_asserts_is_not_taken_for_no_boxes(registered):
    def make():
        raise AssertionError("labels.csv lacks a column")

    with pytest.raises(AssertionError, match="labels.csv"):
        loaded(registered(make))
    empty = dict(file_name="a.png", image_id=0, width=9, height=9, annotations=[])
    with pytest.raises(UserError, match="no image has a box to learn"):
        loaded(registered(lambda: [empty]))


def test_no_evaluation_is_written_over_before_it_is_logged():
    train = counted("custom/r50_finetune")
    assert (train.eval_period, train.log_period) == (7, 7)
    assert counted("custom/r50_finetune", "train.eval_period=0").log_period == 20
