"""The set loss against its definition, a number at a time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lors.adamixer import HungarianMatcher, SetCriterion
from oracle import giou

S, CLASSES = 3, 4
# Of the losses, then of the matching costs.
WEIGHTS = (2.0, 5.0, 2.0)
set_loss = SetCriterion(HungarianMatcher())
SIZES = [(60, 100), (80, 50)]


def random_boxes(*shape: int) -> Tensor:
    low = torch.rand(*shape, 2) * 40
    return torch.cat((low, low + 3 + torch.rand(*shape, 2) * 40), dim=-1)


def random_predictions(batch: int, queries: int = 6) -> list[tuple[Tensor, Tensor]]:
    return [
        (
            (2 * torch.randn(batch, queries, CLASSES)).requires_grad_(),
            random_boxes(batch, queries).requires_grad_(),
        )
        for _ in range(S)
    ]


def random_targets(*numbers: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randint(CLASSES, (n,)), random_boxes(n)) for n in numbers]


def focal(logit: float, hot: bool, alpha: float = 0.25, gamma: float = 2.0) -> float:
    p = 1 / (1 + math.exp(-logit))
    return alpha * (1 - p) ** gamma * -math.log(p) if hot else (1 - alpha) * p**gamma * -math.log(1 - p)


def l1(a: list[float], b: list[float], size: tuple[int, int]) -> float:
    height, width = size
    return sum(abs(p - q) / side for p, q, side in zip(a, b, (width, height, width, height)))


def literal_loss(
    logits, boxes, targets, weights=WEIGHTS, costs=WEIGHTS, alpha=0.25, gamma=2.0
) -> tuple[float, float, float]:
    """One stage, with every assignment tried."""
    total_cls = total_l1 = total_giou = 0.0
    count = 0
    for b, (labels, truth) in enumerate(targets):
        L, n = len(logits[b]), len(labels)

        def cost(query: int, k: int, b=b, labels=labels, truth=truth) -> float:
            logit = logits[b][query][labels[k]].item()
            box, true = boxes[b][query].tolist(), truth[k].tolist()
            classify = focal(logit, True) - focal(logit, False)
            return costs[0] * classify + costs[1] * l1(box, true, SIZES[b]) - costs[2] * giou(box, true)

        chosen = min(
            itertools.permutations(range(L), n),
            key=lambda chosen: sum(cost(query, k) for k, query in enumerate(chosen)),
        )
        of_query = {query: k for k, query in enumerate(chosen)}
        for query, c in itertools.product(range(L), range(CLASSES)):
            hot = query in of_query and labels[of_query[query]].item() == c
            total_cls += focal(logits[b][query][c].item(), hot, alpha, gamma)
        for query, k in of_query.items():
            box, true = boxes[b][query].tolist(), truth[k].tolist()
            total_l1 += l1(box, true, SIZES[b])
            total_giou += 1 - giou(box, true)
            count += 1
    count = max(count, 1)
    totals = total_cls, total_l1, total_giou
    return tuple(weight * total / count for weight, total in zip(weights, totals))


@pytest.mark.parametrize("numbers", [(3, 2), (2, 0), (0, 0)])
def test_losses_are_their_definition_at_every_stage(numbers):
    predictions, targets = random_predictions(2), random_targets(*numbers)
    losses = set_loss(predictions, targets, SIZES)
    assert set(losses) == {f"loss_{name}_{i}" for name in ("cls", "bbox", "giou") for i in range(S)}
    for i, (logits, boxes) in enumerate(predictions):
        for name, expected in zip(("cls", "bbox", "giou"), literal_loss(logits, boxes, targets)):
            assert losses[f"loss_{name}_{i}"].item() == pytest.approx(expected, rel=1e-3, abs=1e-6)
    gradients = torch.autograd.grad(sum(losses.values()), [t for pair in predictions for t in pair])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.any() for gradient in gradients[::2])


def test_weights_of_losses_and_costs_are_arguments():
    weights, costs = (1.0, 0.5, 3.0), (0.1, 0.2, 7.0)
    matcher = HungarianMatcher(class_cost=costs[0], l1_cost=costs[1], giou_cost=costs[2])
    names = ("class_weight", "l1_weight", "giou_weight")
    criterion = SetCriterion(matcher, **dict(zip(names, weights)), alpha=0.4, gamma=1.5)
    predictions, targets = random_predictions(2), random_targets(3, 2)
    losses = criterion(predictions, targets, SIZES)
    for i, (logits, boxes) in enumerate(predictions):
        expected = literal_loss(logits, boxes, targets, weights, costs, alpha=0.4, gamma=1.5)
        for name, one in zip(("cls", "bbox", "giou"), expected):
            assert losses[f"loss_{name}_{i}"].item() == pytest.approx(one, rel=1e-3, abs=1e-6)


def test_each_stage_has_a_weight_of_its_own():
    predictions, targets = random_predictions(2), random_targets(3, 2)
    weights = (0.1, 0.5, 3.0)
    weighted = SetCriterion(HungarianMatcher(), stage_weights=weights)(predictions, targets, SIZES)
    for name, loss in set_loss(predictions, targets, SIZES).items():
        torch.testing.assert_close(weighted[name], weights[int(name[-1])] * loss)


def test_weights_for_another_number_of_stages_are_refused():
    criterion = SetCriterion(HungarianMatcher(), stage_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="3 stages"):
        criterion(random_predictions(1), random_targets(1), SIZES)


def test_any_matcher_will_do():
    class InOrder(torch.nn.Module):
        def forward(self, logits, boxes, targets, image_sizes):
            matched = [(s, b, k, k) for s in range(S) for b in range(2) for k in range(len(targets[b][0]))]
            return torch.tensor(matched).T

    predictions, targets = random_predictions(2), random_targets(3, 2)
    criterion = SetCriterion(InOrder())
    losses = criterion(predictions, targets, SIZES)
    wrong = [predictions[-1][0][b, k].argmax() != c for b in range(2) for k, c in enumerate(targets[b][0])]
    assert criterion.class_error.item() == pytest.approx(100 * sum(wrong) / 5) and 0 < sum(wrong) < 5
    for i, (_, boxes) in enumerate(predictions):
        total = sum(
            l1(boxes[b, k].tolist(), truth[k].tolist(), SIZES[b])
            for b, (_, truth) in enumerate(targets)
            for k in range(len(truth))
        )
        assert losses[f"loss_bbox_{i}"].item() == pytest.approx(5 * total / 5, rel=1e-4)


def test_a_batch_is_divided_by_all_of_its_boxes():
    (first, second), predictions = random_targets(3, 1), random_predictions(2)
    together = set_loss(predictions, [first, second], SIZES)
    alone = [
        set_loss([(logits[b : b + 1], boxes[b : b + 1]) for logits, boxes in predictions], [t], SIZES[b:])
        for b, t in enumerate((first, second))
    ]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (3 * alone[0][name] + alone[1][name]) / 4)


def test_where_boxes_outnumber_queries_the_matched_are_counted():
    (logits, boxes), *_ = random_predictions(1, queries=2)
    labels, truth = torch.zeros(3).long(), random_boxes(3)
    losses = set_loss([(logits, boxes)], [(labels, truth)], SIZES)
    pairs = [
        (sum(1 - giou(boxes[0, i].tolist(), truth[k].tolist()) for i, k in enumerate(chosen)))
        for chosen in itertools.permutations(range(3), 2)
    ]
    # Divided by 2, not by 3.
    assert min(abs(losses["loss_giou_0"].item() - 2 * pair / 2) for pair in pairs) < 1e-4


def test_a_perfect_box_costs_nothing():
    truth, labels = random_boxes(2), torch.tensor([1, 2])
    logits = torch.full((1, 2, CLASSES), -20.0)
    logits[0, [0, 1], labels] = 20.0
    losses = set_loss([(logits, truth[None])], [(labels, truth)], SIZES)
    assert all(loss.item() < 1e-5 for loss in losses.values())


# 9 are more than the model has queries.
@pytest.mark.parametrize("numbers", [(2, 0), (0, 0), (9, 0), (9, 9)])
def test_any_number_of_boxes_trains_every_parameter(numbers, tiny_model, random_image):
    model = tiny_model().train()
    losses = model([random_image(n) for n in numbers])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in trained.values())
