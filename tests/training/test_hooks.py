"""The hooks in Detectron2's own loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from torch import nn

from lors.checkpoints import Checkpointer
from lors.errors import UserError
from lors.training.hooks import (
    BestCheckpointer,
    ClipGradients,
    Evaluation,
    MovingAverage,
    NoBetter,
    Picture,
)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": 100 * self.second(self.first(x)).square().mean()}


class Gradients(HookBase):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def after_backward(self) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in self.trainer.model.parameters()]))


def run(model: nn.Module, *hooks: HookBase, steps: int = 3) -> None:
    data = [torch.full((5, 3), float(i + 1)) for i in range(steps)]
    trainer = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.register_hooks(list(hooks))
    trainer.train(0, steps)


@pytest.mark.parametrize("max_norm", [0.5, 1e6, 0, None])
def test_the_norm_over_all_parameters_is_at_most_max_norm(max_norm):
    model = Toy()
    free, clipped = Gradients(), Gradients()
    run(copy.deepcopy(model), free)
    run(model, ClipGradients(max_norm), clipped)
    assert len(free.seen) == len(clipped.seen) == 3
    for before, after in zip(free.seen, clipped.seen):
        torch.testing.assert_close(after, before * min(1.0, (max_norm or 1e6) / before.norm().item()))
    assert min(before.norm() for before in free.seen) > 0.5


class Moves(HookBase):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def after_step(self) -> None:
        with torch.no_grad():
            self.trainer.model.first.weight += 1.0
        self.seen.append(self.trainer.model.first.weight.detach().clone())


def test_the_average_follows_the_weights():
    model, moves = Toy(), Moves()
    average = MovingAverage(model, decay=0.75)
    run(model, moves, average, steps=40)
    expected = moves.seen[0]
    for n, weight in enumerate(moves.seen[1:], start=1):
        decay = min(0.75, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(average.averaged.module.first.weight, expected)


def test_the_average_of_a_short_training_has_left_the_first_weights():
    model, moves = Toy(), Moves()
    average = MovingAverage(model, decay=0.9999)
    run(model, moves, average, steps=50)
    moved = average.averaged.module.first.weight - moves.seen[0]
    assert moved.min() > 0.7 * 49  # of 49 steps of 1


def test_an_average_that_begins_late_begins_as_the_weights():
    model = Toy()
    average, evaluated = MovingAverage(model, decay=0.75), []
    with torch.no_grad():
        model.first.weight += 1.0  # as a checkpoint that is resumed
    expected = model.first.weight.detach().clone()

    def evaluate() -> dict[str, dict[str, float]]:
        evaluated.append(average.averaged.module.first.weight.detach().clone())
        return {}

    trainer = SimpleTrainer(model, [torch.ones(5, 3)], torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.register_hooks([average, Evaluation(1, evaluate)])
    trainer.train(1, 2)
    torch.testing.assert_close(evaluated[0], expected, rtol=0, atol=0)


def train(folder: Path, scores: Sequence[float], start: int = 0, patience: int = 0) -> list[torch.Tensor]:
    """Evaluates before each second iteration, also where it is resumed; the metric is `scores`, and a missing
    one kills the training.

    Returns the average of a weight after each iteration.
    """
    model, averages = Toy(), []
    trainer = SimpleTrainer(model, [torch.ones(5, 3)] * 20, torch.optim.SGD(model.parameters(), lr=0.0))
    average = MovingAverage(model, decay=0.75)
    following = iter(scores)

    def evaluate() -> dict[str, dict[str, float]]:
        averages.append(average.averaged.module.first.weight.detach().clone())
        return {"bbox": {"AP": next(following)}}

    checkpointer = Checkpointer(model, str(folder), trainer=trainer)
    best = BestCheckpointer(2, checkpointer, average.averaged.module, "bbox/AP", patience)
    trainer.register_hooks([Moves(), average, Evaluation(2, evaluate), best])
    try:
        trainer.train(start, 12)
    except StopIteration:
        pass
    return averages


def kept(folder: Path) -> tuple[float, int, torch.Tensor]:
    file = torch.load(folder / "model_best.pth", weights_only=True)
    return file["best"]["bbox/AP"], file["iteration"], file["model"]["first.weight"]


def test_the_best_is_kept_with_the_weights_that_were_evaluated(tmp_path):
    averages = train(tmp_path, [10.0, 30.0, 20.0])
    value, iteration, weight = kept(tmp_path)
    assert (value, iteration) == (30.0, 3)
    torch.testing.assert_close(weight, averages[1], rtol=0, atol=0)
    assert not torch.equal(weight, averages[2])
    assert not (tmp_path / "last_checkpoint").exists()  # training does not go on from it


def test_a_resumed_training_knows_what_was_best(tmp_path):
    train(tmp_path, [10.0, 30.0])
    before = (tmp_path / "model_best.pth").read_bytes()
    train(tmp_path, [20.0, 29.0], start=4)
    assert (tmp_path / "model_best.pth").read_bytes() == before
    train(tmp_path, [30.0, float("nan"), 40.0], start=8)  # and the last is that of the end
    assert kept(tmp_path)[:2] == (40.0, 11)
    train(tmp_path, [])  # another training, killed before its first
    assert not (tmp_path / "model_best.pth").exists()
    train(tmp_path, [5.0])
    assert kept(tmp_path)[:2] == (5.0, 1)


def test_training_ends_where_nothing_gets_better(tmp_path):
    for start, scores in ((0, [10.0, 30.0, 30.0]), (6, [30.0, 5.0])):  # killed and resumed
        if start:
            with pytest.raises(NoBetter, match="2 evaluations without a better bbox/AP than 30"):
                train(tmp_path, scores, start, patience=2)
        else:
            train(tmp_path, scores, start, patience=2)
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["iteration"] == final["trainer"]["iteration"] == 7
    with pytest.raises(NoBetter):  # and has ended
        train(tmp_path, [5.0], start=8, patience=2)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7


def test_patience_begins_where_a_training_that_knows_no_best_is_resumed(tmp_path):
    train(tmp_path, [float("nan"), 3.0, 2.0], start=6, patience=2)
    assert kept(tmp_path)[:2] == (3.0, 7)


def test_a_metric_that_is_not_there_is_named(tmp_path, caplog):
    hooks = [Evaluation(1, lambda: {"bbox": {"AP": 1.0}})]
    best = (1, Checkpointer(Toy(), str(tmp_path)), Toy(), "bbox/AP5O")
    run(Toy(), *hooks, BestCheckpointer(*best))
    assert "bbox/AP5O" in caplog.text and "bbox/AP\n" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()
    with pytest.raises(UserError, match="bbox/AP5O"):  # without which training would end as none gets better
        run(Toy(), *hooks, BestCheckpointer(*best, patience=1))


def test_a_picture_that_fails_ends_no_training(tmp_path, caplog):
    (tmp_path / "metrics.json").write_text("[")
    run(Toy(), Picture(str(tmp_path), 1))
    assert "training.png cannot be drawn" in caplog.text
