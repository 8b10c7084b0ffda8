from .sharing_bccd import study

study.title = "What a trained start is worth, on BCCD"
study.reference = "from scratch"
study.arms = {
    "from scratch": dict(config="configs/custom/tiny_cpu.py", overrides=["train.max_iter=3050"]),
    "from the digits": dict(start="sharing_digits/LORS"),
    "EfficientNet-Lite0": dict(config="configs/custom/timm_finetune.py", overrides=["train.max_iter=1000"]),
}
