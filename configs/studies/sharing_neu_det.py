import os

from .sharing_digits import study

_folder = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "neu_det")

study.title = "What sharing buys, on NEU-DET"
study.config = "configs/custom/tiny_cpu.py"
study.val = study.test = []
study.dataset = dict(
    train_json=f"{_folder}/train.json",
    train_images=f"{_folder}/images",
    test_json=f"{_folder}/test.json",
    test_images=f"{_folder}/images",
    val_fraction=0.2,
)
# Steel seen from above has no up side.
study.overrides = ["dataset.vertical_flip=0.5"]
