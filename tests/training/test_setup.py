"""What a config means."""

import pytest
from detectron2.config import LazyConfig, instantiate

from lors.checkpoints import load_config
from lors.errors import UserError
from lors.training.setup import auto_scale, choose_length, count_iterations, load_train_data
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


def test_no_evaluation_is_written_over_before_it_is_logged():
    train = counted("custom/r50_finetune")
    assert (train.eval_period, train.log_period) == (7, 7)
    assert counted("custom/r50_finetune", "train.eval_period=0").log_period == 20
