"""What a config means."""

import pytest
from detectron2.config import LazyConfig

from lors.training.setup import auto_scale
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
