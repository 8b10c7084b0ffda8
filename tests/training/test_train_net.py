"""The command line as a user types it: train, evaluate, resume, and what it says when something is wrong."""

import json
import math
import shutil

import detectron2
import matplotlib
import pytest
import torch

from lors.checkpoints import read
from runs import LIGHT, ROOT, arguments, assert_one_line, command, losses, start, wait_for_iterations


def average_precision(text):
    return [line.split(": ", 1)[1] for line in text.splitlines() if "copypaste" in line][-1]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    result = command(*arguments(data, output), "train.eval_period=4")
    assert result.returncode == 0, result.stderr
    return output, result.stdout


def test_training_leaves_what_people_look_for(trained):
    output, said = trained
    assert list(losses(output)) == [0, 1, 2, 3]
    pictures = ("detections.png", "training.png")
    for name in (
        "log.txt",
        "config.yaml",
        "model_0000001.pth",
        "model_final.pth",
        "model_best.pth",
        *pictures,
    ):
        assert (output / name).stat().st_size > 0, name
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert all(r["grad_norm"] > 0 and 0 <= r["class_error"] <= 100 for r in records if "total_loss" in r)
    best, final = (torch.load(output / f"model_{name}.pth", weights_only=True) for name in ("best", "final"))
    assert all(torch.equal(best["model"][name], weight) for name, weight in final["model"].items())
    assert f"Detectron2 {detectron2.__version__}" in said
    assert "AP50" in said and "eta:" in said and str(output / "detections.png") in said


def test_eval_only_gives_the_same_ap(trained, data, tmp_path):
    output, said = trained
    weights = f"train.init_checkpoint={output}/model_final.pth"
    (tmp_path / "config.yaml").write_text("of a training")
    result = command(*arguments(data, tmp_path, "--eval-only"), weights)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "config.yaml").read_text() == "of a training"
    assert average_precision(result.stdout) == average_precision(said)


def test_resume_goes_on_from_the_last_checkpoint(trained, data, tmp_path):
    output, _ = trained
    (tmp_path / "model_0000001.pth").write_bytes((output / "model_0000001.pth").read_bytes())
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    result = command(*arguments(data, tmp_path, "--resume"))
    assert result.returncode == 0, result.stderr
    assert list(losses(tmp_path)) == [2, 3]
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["iteration"] == 3


def test_a_finished_training_and_a_test_set_that_it_knows(trained, data, tmp_path):
    output, _ = trained
    # Killed while its last iteration was saved, before model_final.pth was.
    (tmp_path / "model_0000003.pth").write_bytes((output / "model_0000003.pth").read_bytes())
    known = [f"dataset.test_json={data}/train.json", f"dataset.test_images={data}/train"]
    result = command(*arguments(data, tmp_path, "--resume"), *known)
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path) == {} and f"{tmp_path} is finished: nothing is left of 4" in result.stdout
    assert "16 trained_on (noted; " in result.stdout
    ours, theirs = (torch.load(f / "model_final.pth", weights_only=True) for f in (tmp_path, output))
    assert ours["iteration"] == theirs["iteration"] == 3
    assert all(torch.equal(weight, ours["model"][name]) for name, weight in theirs["model"].items())


def test_the_same_command_twice_gives_the_same_losses(trained, data, tmp_path):
    output, _ = trained
    result = command(*arguments(data, tmp_path))
    assert result.returncode == 0, result.stderr
    assert losses(tmp_path) == losses(output)


def test_iterations_follow_from_epochs(data, tmp_path):
    # 16 images in batches of 4; the config has another max_iter
    args = [arg for arg in arguments(data, tmp_path) if not arg.startswith("train.max_iter")]
    (tmp_path / "detections.png").mkdir()  # a picture that cannot be written ends no training
    result = command(*args, "train.epochs=2", "train.eval_period=null")
    assert result.returncode == 0, result.stderr
    assert list(losses(tmp_path)) == list(range(8))
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert sum("bbox/AP" in record for record in records) == 2
    assert result.stdout.count(f"{tmp_path}/detections.png cannot be drawn") == 2


def test_killed_before_its_first_checkpoint_a_training_does_not_resume_the_one_before(
    data, trained, tmp_path
):
    """Both in one folder, where the first was not finished."""
    shutil.copy(trained[0] / "model_0000001.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    args = [*arguments(data, tmp_path), "model.criterion.giou_weight=9", "train.seed=2"]
    process = start(*args, "train.checkpointer.period=100", "train.max_iter=100")
    wait_for_iterations(process, tmp_path, 2)
    process.kill()
    process.communicate()
    assert {path.name for path in tmp_path.glob("model_*.pth")} <= {"model_0000001.pth", "model_start.pth"}
    result = command("--resume", *args)
    assert result.returncode == 0, result.stderr
    again = tmp_path / "again"
    assert command(*args, f"train.output_dir={again}").returncode == 0
    ours, theirs = (read(str(folder / "model_final.pth"))["model"] for folder in (tmp_path, again))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_auto_scale_keeps_batch_and_rate_in_proportion(data, tmp_path):
    args = arguments(data, tmp_path, "--auto-scale")
    result = command(*args, "train.reference_gpus=2", "train.max_iter=1")
    assert result.returncode == 0, result.stderr
    saved = (tmp_path / "config.yaml").read_text()
    assert "total_batch_size: 2" in saved and "lr: 0.00065" in saved
    result = command(*args, "train.reference_gpus=8")
    assert_one_line(result, "--auto-scale: a batch of 0.5 for 1 GPUs")


@pytest.mark.skipif(not LIGHT, reason="Detectron2 itself does run several processes")
def test_the_light_runtime_names_the_full_one(data, tmp_path):
    result = command(*arguments(data, tmp_path, "--num-gpus", "2"))
    assert_one_line(result, "https://github.com/facebookresearch/detectron2")


def test_a_finished_training_is_written_over_by_itself_alone(trained, data, tmp_path):
    output = shutil.copytree(trained[0], tmp_path / "output")
    final = (output / "model_final.pth").read_bytes()
    where = f"train.output_dir={output}"
    config = (output / "config.yaml").read_text().replace(str(trained[0]), str(output))
    (output / "config.yaml").write_text(config)
    args = [*arguments(data, trained[0]), "train.eval_period=4", where]
    assert_one_line(command(*args, "model.criterion.giou_weight=3"), str(output), "giou_weight: 2.0")
    assert (output / "model_final.pth").read_bytes() == final
    assert (output / "config.yaml").read_text() == config
    (output / "model_final.pth").write_bytes(b"")
    result = command(*args)
    assert result.returncode == 0, result.stderr
    assert (output / "model_final.pth").stat().st_size > 0


def test_a_negative_number_of_gpus(data, tmp_path):
    assert_one_line(command(*arguments(data, tmp_path, "--num-gpus", "-1")), "--num-gpus -1")


@pytest.mark.parametrize(
    "overrides, wanted",
    [
        (["model.queries.num_querys=3"], ["model.queries.num_querys", "model.queries.num_queries"]),
        (["dataset.train_json=nowhere.json"], ["nowhere.json", "DETECTRON2_DATASETS"]),
        (["model.decoder.bank.residual.channel.rank=99"], ["mixing.channel.weight: rank=99", "at most 32"]),
        (["model.decoder.bank.residual.output.groups=[1,2]"], ["groups=(1, 2)", "4 of them"]),
        (["model.decoder.num_classes=3"], ["has 10 classes (0, 1, 2, ", "model.decoder.num_classes=3"]),
        (["dataloader.train.total_batch_size=0"], ["dataloader.train.total_batch_size=0", "at least 1"]),
        (["dataset.val_fraction=2"], ["dataset.val_fraction=2"]),
        (["train.init_checkpoint=nowhere.pth"], ["nowhere.pth"]),
        (["train.epochs=2"], ["train.epochs, train.max_iter: only one"]),
        (["train.eval_period=1.5"], ["train.eval_period=1.5"]),
        (["train.amp.enabled=true"], ["train.amp.enabled=true", "train.device=cpu"]),
        (["dataloader.train.num_worker=1"], ["num_worker"]),
        (["dataloader.train.prefetch_factor=2"], ["prefetch_factor"]),
        (["dataloader.test.num_workers=-1"], ["num_workers"]),
        (["dataloader.test.mapper.on_bad_image=ignore"], ["on_bad_image='ignore'"]),
        (["train.patience=2"], ["train.patience: needs a test set, train.eval_period"]),
        (["train.checkpointer.max_to_keep=[1,2]"], ["the config cannot be used"]),
        (["optimizer=nan", "optimizer.params.overrides.content.lr=1"], ["the config cannot be used"]),
    ],
    ids=lambda value: value[0].split("=")[0],
)
def test_what_is_wrong_is_said_in_one_line(data, tmp_path, overrides, wanted):
    assert_one_line(command(*arguments(data, tmp_path), *overrides), *wanted)
    assert not (tmp_path / "metrics.json").exists() or not losses(tmp_path)


def test_a_checkpoint_that_does_not_fit(trained, data, tmp_path):
    output, _ = trained
    result = command(
        *arguments(data, tmp_path, "--eval-only"),
        f"train.init_checkpoint={output}/model_final.pth",
        "model.decoder.num_classes=12",
    )
    assert_one_line(result, "decoder.stages.0.classify.3.weight", "(10, 64)", "(12, 64)")


@pytest.fixture
def spoiled(data, tmp_path):
    """The data with a broken image in each part, a box without area and an image without boxes."""
    root = tmp_path / "spoiled"
    shutil.copytree(data, root)
    content = json.loads((root / "train.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 5]
    content["annotations"][0]["bbox"][2] = 0
    (root / "train.json").write_text(json.dumps(content))
    for path in (root / "train" / "000003.png", root / "test" / "000002.png"):
        path.write_bytes(path.read_bytes()[:2000])
    return root


def test_bad_images_are_skipped_and_counted(spoiled, tmp_path):
    result = command(
        *arguments(spoiled, tmp_path / "output"),
        "dataloader.train.mapper.on_bad_image=skip",
        "dataloader.train.num_workers=2",
        "dataloader.test.num_workers=2",
        "train.max_iter=12",
    )
    assert result.returncode == 0, result.stderr
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "output").values())
    said = (tmp_path / "output" / "log.txt").read_text()
    for text in ("train.json: 1 no_area (dropped; ", "AP50", "detections.png"):
        assert text in said
    for split, name, meaning in (("train", "3", "trained on instead"), ("test", "2", "count as missed")):
        path = f"{spoiled}/{split}/00000{name}.png"
        assert said.count(f"Skipped {path}: ") == 1
        (line,) = [line for line in said.splitlines() if "Skipped images: 1, " in line and meaning in line]
        assert path in line


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_refused_by_name(spoiled, tmp_path, workers):
    args = [*arguments(spoiled, tmp_path / "output"), f"dataloader.train.num_workers={workers}"]
    assert_one_line(command(*args), f"error: {spoiled}/train/000003.png: ", "truncated")
    if workers == 0:
        (spoiled / "test" / "000002.png").unlink()
        assert_one_line(command(*args), "1 missing_image (error; ", f"{spoiled}/test/000002.png")


def test_annotations_that_cannot_be_used(spoiled, tmp_path):
    text = (spoiled / "test.json").read_text()
    (spoiled / "test.json").write_text(text.replace('"bbox": [', '"bbox": [NaN, ', 1))
    result = command(*arguments(spoiled, tmp_path / "output"))
    assert_one_line(result, f"{spoiled}/test.json cannot be used: 1 not_a_box (error; annotation 1: ")


def test_coco_that_is_not_there(tmp_path):
    result = command(
        "--config-file",
        "configs/lors_r50_1x.py",
        f"train.output_dir={tmp_path}",
        DETECTRON2_DATASETS=str(tmp_path),
    )
    assert_one_line(result, f"{tmp_path}/coco/annotations/instances_train2017.json", "DETECTRON2_DATASETS")


def test_eval_only_needs_weights(data, tmp_path):
    assert_one_line(command(*arguments(data, tmp_path, "--eval-only")), "train.init_checkpoint")
    assert_one_line(
        command(*arguments(data, tmp_path, "--eval-only", "--resume")), f"no checkpoint in {tmp_path}"
    )


def renumbered(data, folder, split, keep=range(10)):
    """A JSON file with the digits' classes in reverse order, or some of them."""
    content = json.loads((data / f"{split}.json").read_text())
    content["categories"] = [{**c, "id": 11 - c["id"]} for c in content["categories"] if c["id"] - 1 in keep]
    content["annotations"] = [
        {**a, "category_id": 11 - a["category_id"]}
        for a in content["annotations"]
        if a["category_id"] - 1 in keep
    ]
    (folder / f"{split}.json").write_text(json.dumps(content))
    return f"dataset.{split}_json={folder}/{split}.json"


def test_classes_are_matched_by_name_without_the_training_set(trained, data, tmp_path):
    output, said = trained
    args = arguments(data, "~/output", "--eval-only")
    args = [arg for arg in args if not arg.startswith("dataset.train")]
    weights = f"train.init_checkpoint={output}/model_final.pth"
    home = dict(HOME=str(tmp_path), MPLCONFIGDIR=matplotlib.get_configdir())
    result = command(*args, weights, renumbered(data, tmp_path, "test"), **home)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "output" / "detections.png").exists()
    assert average_precision(result.stdout) == average_precision(said)
    assert "1 other_ids (matched by name" in result.stdout


def test_fine_tuning_to_some_classes_without_a_test_set(trained, data, tmp_path):
    output, _ = trained
    args = [arg for arg in arguments(data, tmp_path / "output") if not arg.startswith("dataset.test")]
    weights = f"train.init_checkpoint={output}/model_final.pth"
    args += [weights, renumbered(data, tmp_path, "train", range(4)), "train.max_iter=1"]
    result = command(*args)
    assert result.returncode == 0, result.stderr
    assert "Kept: 3; 2; 1; 0. New, not yet trained: none" in result.stdout
    assert "No test set" in result.stdout and "AP50" not in result.stdout
    tuned = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
    assert tuned["about"]["names"] == ["3", "2", "1", "0"] and tuned["about"]["ids"] == [7, 8, 9, 10]
    (tmp_path / "output" / "model_final.pth").unlink()  # or it would not be written over
    result = command(*args, "dataset.val_fraction=0.5")
    assert result.returncode == 0, result.stderr
    assert "AP50" in result.stdout and "has checkpoints, which this training writes over" in result.stdout
    whole = f"dataset.train_json={data}/train.json"
    assert_one_line(command(*args[:2], "--resume", *args[2:], whole), "classes are 3; 2; 1; 0")


def test_settings_of_the_optimiser_are_those_of_the_config_after_resuming(trained, data, tmp_path):
    output, _ = trained
    (tmp_path / "model_0000001.pth").write_bytes((output / "model_0000001.pth").read_bytes())
    result = command(
        *arguments(data, tmp_path, "--resume"), "optimizer.lr=1e-9", "optimizer.weight_decay=0.5"
    )
    assert result.returncode == 0, result.stderr
    assert (
        "initial_lr 0.0013 is now 1e-09" in result.stdout and "weight_decay 0.15 is now 0.5" in result.stdout
    )
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert max(record["lr"] for record in records if "lr" in record) < 1e-9
    rate = "optimizer.params.lr_factor_func.private=0.25"
    assert_one_line(command(*arguments(data, tmp_path, "--resume"), rate), str(tmp_path), "optimizer.params")


STAGE = """
from lors.adamixer import DecoderStage

class Stage(DecoderStage):
    def forward(self, *inputs):
        return {}["foo"]
"""
CONFIG = """
from detectron2.config import LazyConfig
from my_stage import Stage

base = LazyConfig.load("CONFIG")
model, dataset, dataloader, optimizer, lr_multiplier, train = (
    base[name] for name in ("model", "dataset", "dataloader", "optimizer", "lr_multiplier", "train")
)
model.decoder.stage = Stage
"""


def test_an_error_in_code_of_ones_own_keeps_its_traceback(data, tmp_path):
    (tmp_path / "my_stage.py").write_text(STAGE)
    _, config, *args = arguments(data, tmp_path / "output")
    (tmp_path / "mine.py").write_text(CONFIG.replace("CONFIG", str(ROOT / config)))
    result = command("--config-file", "mine.py", *args, cwd=tmp_path)
    assert result.returncode == 1 and "error: " not in result.stderr
    assert "my_stage.py" in result.stderr and "KeyError: 'foo'" in result.stderr
    assert f"{tmp_path}/output/error.txt" in result.stdout
    assert "my_stage.py" in (tmp_path / "output" / "error.txt").read_text()
