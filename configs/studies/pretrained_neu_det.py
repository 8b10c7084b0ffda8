import os

from .pretrained_bccd import study

_folder = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "neu_det")

study.title = "What a trained start is worth, on NEU-DET"
study.dataset.update(
    train_json=f"{_folder}/train.json",
    train_images=f"{_folder}/images",
    test_json=f"{_folder}/test.json",
    test_images=f"{_folder}/images",
)
