import os

from .sharing_neu_det import study

_folder = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "bccd")

study.title = "What sharing buys, on BCCD"
study.dataset.update(
    train_json=f"{_folder}/train.json",
    train_images=f"{_folder}/images",
    test_json=f"{_folder}/val.json",
    test_images=f"{_folder}/images",
)
