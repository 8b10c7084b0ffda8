"""Numbers that are not finite end training with a record from which the iteration can be computed again."""

import json
import shlex

import pytest
import torch

from lors.training.hooks import ClipGradients
from runs import arguments, assert_one_line, command


@pytest.fixture(scope="module")
def poisoned(data, tmp_path_factory):
    """A checkpoint whose third stage overflows."""
    output = tmp_path_factory.mktemp("good")
    result = command(*arguments(data, output), "train.max_iter=1")
    assert result.returncode == 0, result.stderr
    weights = torch.load(output / "model_final.pth", weights_only=True)["model"]
    return weights, output


@pytest.mark.parametrize("name", ["decoder.stages.2.classify.3.bias", "decoder.stages.1.regress.3.bias"])
def test_training_stops_with_a_record_and_the_command_to_replay_it(name, poisoned, data, tmp_path):
    weights, output = poisoned
    file = output / f"{name}.pth"
    torch.save({"model": {**weights, name: torch.full_like(weights[name], float("nan"))}}, file)
    result = command(*arguments(data, tmp_path), f"train.init_checkpoint={file}")
    assert_one_line(result, "not finite", "again: python train_net.py --replay")
    (record_file,) = tmp_path.glob("not_finite_*.json")
    assert str(record_file) in result.stderr
    record = json.loads(record_file.read_text())
    assert record["iteration"] == 0 and len(record["images"]) == 4
    assert not list(tmp_path.glob("model_*.pth"))

    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    again = shlex.split(line.partition("again: python train_net.py ")[2])
    replayed = command(*again)
    said = replayed.stdout
    assert "Traceback" not in said + replayed.stderr
    assert all(image in said for image in record["images"])
    first = next(line for line in said.splitlines() if "Output not finite: " in line)
    assert first.endswith(name.rpartition(".")[0])


def test_gradients_that_are_not_finite():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, float("inf")])

    class Trainer:
        model, iter = torch.nn.ParameterList([weight]), 7

    hook = ClipGradients(1.0)
    hook.trainer = Trainer
    with pytest.raises(FloatingPointError, match="gradients are not finite in iteration 7"):
        hook.after_backward()

    # With a loss scaler it is the scaler's to leave the step out.
    class Scaler:
        def unscale_(self, optimizer):
            pass

    Trainer.grad_scaler, Trainer.optimizer = Scaler(), None
    hook.after_backward()
