"""Training that is killed or told to stop at any moment ends as if nothing had happened."""

import random
import shlex
import signal
import time

import pytest
import torch

from lors.checkpoints import Checkpointer
from runs import arguments, assert_one_line, command, losses, start, wait_for_iterations

ITERATIONS, PERIOD, PATIENCE = 10, 3, 2


def training(data, output, workers, *modes):
    """With all the randomness of the recipe; checkpoints often. AP stays 0, so it ends early."""
    given = [a for a in arguments(data, output, *modes) if "augmentations" not in a]
    more = ("train.checkpointer.period=1", "train.checkpointer.max_to_keep=2", "train.ema_decay=0.8")
    more += (f"train.eval_period={PERIOD}", f"train.patience={PATIENCE}")
    return [*given, f"train.max_iter={ITERATIONS}", f"dataloader.train.num_workers={workers}", *more]


def one_thread(args, run=command):
    return run(*args, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """To its last iteration, with a checkpoint of each."""
    output = tmp_path_factory.mktemp("uninterrupted")
    more = ["train.patience=0", f"train.checkpointer.max_to_keep={ITERATIONS}"]
    result = one_thread([*training(data, output, 0), *more])
    assert result.returncode == 0, result.stderr
    return output


def test_a_moving_average_is_not_lost_on_resuming(data, uninterrupted):
    final = (uninterrupted / "model_final.pth").read_bytes()
    result = one_thread([*training(data, uninterrupted, 0, "--resume"), "train.ema_decay=0"])
    assert_one_line(result, "train.ema_decay")
    assert (uninterrupted / "model_final.pth").read_bytes() == final


def assert_same_ending(output, uninterrupted):
    """As nothing had happened: the first evaluation stays the best, PATIENCE evaluations later it ends."""
    first = PERIOD - 1
    last = first + PATIENCE * PERIOD
    best, final = load(output / "model_best.pth"), load(output / "model_final.pth")
    assert best["iteration"] == first
    averaged = load(uninterrupted / f"model_{first:07d}.pth")["ema"]
    averaged = {f"module.{name}": averaged[f"module.{name}"] for name in best["model"]}
    assert differences({f"module.{name}": weight for name, weight in best["model"].items()}, averaged) == []
    assert differences(final, load(uninterrupted / f"model_{last:07d}.pth")) == []
    # Each once; their values are medians of 20, which begin anew.
    assert list(losses(output)) == list(range(last + 1))
    assert not list(output.glob(".unfinished-*"))


def load(path):
    return torch.load(path, weights_only=True)


def differences(ours, theirs, name=""):
    """Where two checkpoints differ, bit for bit; the clock is no part of the state."""
    if isinstance(theirs, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [name]
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        return [d for key in theirs for d in differences(ours[key], theirs[key], f"{name}.{key}")]
    if isinstance(theirs, list):
        return [d for i, pair in enumerate(zip(ours, theirs)) for d in differences(*pair, f"{name}.{i}")]
    return [] if ours == theirs else [name]


def kill(args, output, rng):
    """Kills a training at a random moment after its first checkpoint was begun, or while it writes one."""
    process = one_thread(args, start)
    writing = rng.random() < 0.5
    wait = rng.uniform(0, 2.5)
    began = None
    while process.poll() is None:
        if list(output.glob(".unfinished-*")) or list(output.glob("model_*.pth")):
            began = began or time.monotonic()
            at_work = bool(list(output.glob(".unfinished-*")))
            if time.monotonic() - began >= wait and (at_work or not writing):
                break
        time.sleep(0.001)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_killed_and_resumed_ends_the_same(data, uninterrupted, tmp_path, long):
    killed = 0
    for number in range(25 if long else 2):
        rng, output = random.Random(number), tmp_path / str(number)
        output.mkdir()
        workers = 2 * (number % 2)
        killed += kill(training(data, output, workers), output, rng)
        while rng.random() < 0.3:  # and again
            killed += kill(training(data, output, workers, "--resume"), output, rng)
        result = one_thread(training(data, output, workers, "--resume"))
        assert result.returncode == 0, result.stderr
        assert_same_ending(output, uninterrupted)
    assert killed >= (20 if long else 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_saves_and_names_the_command_to_go_on(number, data, uninterrupted, tmp_path):
    args = training(data, tmp_path, 0)
    process = one_thread([*args, "train.checkpointer.period=1000"], start)
    wait_for_iterations(process, tmp_path, 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in out + err
    (line,) = [line for line in out.splitlines() if "which is saved; go on: " in line]
    assert number.name in line
    stopped = max(losses(tmp_path))
    assert (tmp_path / f"model_{stopped:07d}.pth").exists() and stopped < PATIENCE * PERIOD
    again = shlex.split(line.partition("go on: python train_net.py ")[2])
    assert "--resume" in again
    result = one_thread(again)
    assert result.returncode == 0, result.stderr
    assert_same_ending(tmp_path, uninterrupted)


@pytest.mark.parametrize("damage", ["torn", "empty", "missing"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(damage, tiny_model, tmp_path, caplog):
    for name in ("model_0000001", "model_0000002"):
        model = tiny_model()
        Checkpointer(model, str(tmp_path)).save(name)
        if name == "model_0000001":
            expected = model.state_dict()
        time.sleep(0.01)
    last = tmp_path / "model_0000002.pth"
    if damage == "missing":
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:9999] if damage == "torn" else b"")
    model = tiny_model()
    Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
    assert str(last) in caplog.text and "the checkpoint before it is taken" in caplog.text
    (tmp_path / "model_0000001.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint can be read"):
        Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)


def test_a_checkpoint_of_another_model_is_no_damage(tiny_model, tmp_path):
    Checkpointer(tiny_model(), str(tmp_path)).save("model_0000001")
    Checkpointer(tiny_model(num_classes=4), str(tmp_path)).save("model_0000002")
    with pytest.raises(ValueError, match="does not fit the model"):
        Checkpointer(tiny_model(), str(tmp_path)).resume_or_load("", resume=True)


def test_metrics_after_a_kill_are_whole_and_once(data, uninterrupted, tmp_path):
    for file in uninterrupted.iterdir():
        if file.name in ("model_0000007.pth", "model_best.pth", "metrics.json"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "metrics.json").open("a").write('{"iteration": 9, "total_l')
    result = one_thread(training(data, tmp_path, 0, "--resume"))
    assert result.returncode == 0, result.stderr
    assert_same_ending(tmp_path, uninterrupted)
