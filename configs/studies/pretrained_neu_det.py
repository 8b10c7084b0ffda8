import os

from .pretrained_bccd import study

_folder = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "neu_det")

study.title = "What a trained start is worth, on NEU-DET"
# Without the arm that starts from the digits, which is no better than from scratch on BCCD.
study.arms = {label: study.arms[label] for label in ("from scratch", "EfficientNet-Lite0")}
study.dataset.update(
    train_json=f"{_folder}/train.json",
    train_images=f"{_folder}/images",
    test_json=f"{_folder}/test.json",
    test_images=f"{_folder}/images",
)
