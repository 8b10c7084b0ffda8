"""What a config means."""

import pytest
from detectron2.config import LazyConfig, instantiate

from lors.checkpoints import load_config
from lors.training.setup import auto_scale, load_train_data
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
