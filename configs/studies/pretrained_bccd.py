from .sharing_bccd import study

_timm = "configs/custom/timm_finetune.py"

study.title = "What a backbone of timm with ImageNet weights is worth in the same time, on BCCD"
study.reference = "from scratch"
study.arms = {
    "from scratch": dict(),
    # As many iterations as take the time of the small backbone's 3,050 on a CPU
    "EfficientNet-Lite0": dict(config=_timm, overrides=["train.max_iter=600"]),
    "EfficientNet-Lite0, frozen": dict(
        config=_timm, overrides=["train.max_iter=1200", "model.backbone.frozen=true"]
    ),
}
