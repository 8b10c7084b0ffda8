"""Any number of processes computes what one does; what happens to one is told of all."""

import json
import os
import signal
import subprocess
import time

import pytest
import torch

from runs import LIGHT, arguments, command, losses, start, wait_for_iterations

pytestmark = pytest.mark.skipif(
    LIGHT, reason="the light runtime is single process; Detectron2 itself runs this"
)


def parallel(data, output, processes, *more):
    return [
        *arguments(data, output, *more, "--num-gpus", str(processes), "--dist-url", "auto"),
        # BatchNorm sees a part of the batch in each process, so its statistics stay fixed here.
        "model.fixed_statistics=true",
        "dataloader.train.dataset.filter_empty=false",
    ]


@pytest.fixture(scope="module")
def uneven(data, tmp_path_factory):
    """No boxes in half of the training images, so that some process has none; seven test images."""
    root = tmp_path_factory.mktemp("uneven")
    for part in ("train", "test"):
        (root / part).symlink_to(data / part)
        content = json.loads((data / f"{part}.json").read_text())
        if part == "train":
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] % 2]
        else:
            content["images"] = content["images"][:7]
            kept = {image["id"] for image in content["images"]}
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (root / f"{part}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def runs(uneven, tmp_path_factory, long):
    """Number of processes -> output folder."""
    folders = {}
    for processes in (1, 2, 4) if long else (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"processes{processes}")
        result = command(*parallel(uneven, folders[processes], processes), OMP_NUM_THREADS="1")
        assert result.returncode == 0, result.stderr
    return folders


@pytest.fixture(params=[2, 4])
def processes(request, runs):
    if request.param not in runs:
        pytest.skip(f"{request.param} processes take part in the long form: make drills")
    return request.param


def test_losses_and_weights_are_those_of_one(processes, runs):
    one, many = losses(runs[1]), losses(runs[processes])
    assert one.keys() == many.keys()
    for iteration, loss in one.items():
        assert many[iteration] == pytest.approx(loss, rel=1e-4), iteration
    # The first step's gradients are in Adam's mean.
    ours, theirs = (
        torch.load(runs[n] / "model_0000001.pth", weights_only=True)["trainer"]["optimizer"]["state"]
        for n in (processes, 1)
    )
    squared, off = 0.0, 0.0
    for key, state in theirs.items():
        squared += state["exp_avg"].square().sum()
        off += (ours[key]["exp_avg"] - state["exp_avg"]).square().sum()
    assert off.sqrt() < 1e-3 * squared.sqrt()


def test_every_image_is_evaluated_once(processes, runs):
    found = {n: json.loads((runs[n] / "coco_instances_results.json").read_text()) for n in (1, processes)}
    assert len(found[1]) == 7 * 100
    for n in found:
        counts = {}
        for one in found[n]:
            counts[one["image_id"]] = counts.get(one["image_id"], 0) + 1
        assert len(counts) == 7 and set(counts.values()) == {100}


def test_all_processes_end_early_together(uneven, tmp_path, long):
    if not long:
        pytest.skip("takes part in the long form: make drills")
    more = ("optimizer.lr=0", "optimizer.params.overrides=null", "train.eval_period=1", "train.patience=2")
    result = command(*parallel(uneven, tmp_path, 2), *more, "train.max_iter=50", OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    assert list(losses(tmp_path)) == [0, 1, 2]
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 2
    assert "Training ends after iteration 2: 2 evaluations without a better bbox/AP" in result.stdout


def trainers(process):
    """The processes that a train_net.py with several has started for training."""
    listed = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid=,args="], capture_output=True)
    lines = listed.stdout.decode().splitlines()
    return [int(line.split()[0]) for line in lines if "spawn_main" in line]


def under_way(data, output):
    process = start(*parallel(data, output, 2), "train.max_iter=5000", OMP_NUM_THREADS="1")
    wait_for_iterations(process, output, 4)
    return process


def test_one_dying_process_ends_the_others_and_is_named(data, tmp_path):
    process = under_way(data, tmp_path)
    children = trainers(process)
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert "error: process 1 was killed by SIGKILL" in said
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_processes_stop_after_the_same_iteration(number, data, tmp_path):
    process = under_way(data, tmp_path)
    if number == signal.SIGINT:  # as a terminal does
        for child in trainers(process):
            os.kill(child, number)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "which is saved; go on: python train_net.py --resume" in out and "Traceback" not in out + err
    saved = [file for file in tmp_path.glob("model_*.pth") if int(file.stem[6:]) == max(losses(tmp_path))]
    assert len(saved) == 1
