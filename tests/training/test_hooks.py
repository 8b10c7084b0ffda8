"""The hooks in Detectron2's own loop."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from torch import nn

from lors.training.hooks import ClipGradients, MovingAverage


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


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_the_norm_over_all_parameters_is_at_most_max_norm(max_norm):
    model = Toy()
    free, clipped = Gradients(), Gradients()
    run(copy.deepcopy(model), free)
    run(model, ClipGradients(max_norm), clipped)
    assert len(free.seen) == len(clipped.seen) == 3
    for before, after in zip(free.seen, clipped.seen):
        torch.testing.assert_close(after, before * min(1.0, max_norm / before.norm().item()))
    assert min(before.norm() for before in free.seen) > 0.5


def test_the_average_follows_the_weights():
    class Moves(HookBase):
        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def after_step(self) -> None:
            with torch.no_grad():
                self.trainer.model.first.weight += 1.0
            self.seen.append(self.trainer.model.first.weight.detach().clone())

    model, moves = Toy(), Moves()
    average = MovingAverage(model, decay=0.75)
    run(model, moves, average)
    expected = moves.seen[0]
    for weight in moves.seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    torch.testing.assert_close(average.averaged.module.first.weight, expected)
