import os

from .sharing_digits import study

_folder = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "bccd")

study.title = "What sharing buys, on BCCD, in detectors that were trained on the digits before"
study.config = "configs/custom/lors_from_digits.py"
study.val = study.test = []
study.dataset = dict(
    train_json=f"{_folder}/train.json",
    train_images=f"{_folder}/images",
    test_json=f"{_folder}/val.json",
    test_images=f"{_folder}/images",
    val_fraction=0.2,
)
# A slide under a microscope has no up side.
study.overrides = ["dataset.vertical_flip=0.5", "train.max_iter=1000"]
study.arms = {
    label: dict(**study.arms[label], start=f"sharing_digits/{label}")
    for label in ("plain", "LORS", "slow private", "tied", "narrow plain")
}
