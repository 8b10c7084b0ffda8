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
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    rates = {
        id(parameter): group["lr"]
        for group in instantiate(cfg.optimizer).param_groups
        for parameter in group["params"]
    }
    own = [rates[id(p)] for p in model.backbone.parameters() if p.requires_grad]
    assert own and own == pytest.approx([cfg.optimizer.lr / 10] * len(own))
    assert rates[id(model.decoder.stages[0].offsets.weight)] == cfg.optimizer.lr


def test_without_a_seed_each_training_has_its_own(data):
    images = [f"dataset.train_json={data}/train.json", f"dataset.train_images={data}/train", "train.seed=-1"]
    cfg = load_config(str(ROOT / "configs/custom/tiny_cpu.py"), images)
    model = instantiate(cfg.model)
    assert load_train_data(cfg, model)[0].seed != load_train_data(cfg, model)[0].seed
