from .sharing_bccd import study

study.title = "What a trained start is worth, on BCCD"
study.reference = "from scratch"
study.overrides = ["dataset.vertical_flip=0.5", "train.max_iter=3050"]
study.arms = {
    "from scratch": dict(config="configs/custom/tiny_cpu.py"),
    "from the digits": dict(start="sharing_digits/LORS"),
    "from scratch, a tenth": dict(config="configs/custom/tiny_cpu.py", overrides=["train.max_iter=305"]),
    "from the digits, a tenth": dict(start="sharing_digits/LORS", overrides=["train.max_iter=305"]),
    # As many iterations as take the time of the small backbone's 3,050 on a CPU
    "EfficientNet-Lite0": dict(config="configs/custom/timm_finetune.py", overrides=["train.max_iter=1000"]),
    "EfficientNet-Lite0, frozen": dict(
        config="configs/custom/timm_finetune.py",
        overrides=["model.backbone.frozen=true", "train.max_iter=2300"],
    ),
}
