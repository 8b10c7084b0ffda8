"""Matching cost, a number at a time, and the assignment that it leads to."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lors.adamixer import HungarianMatcher
from oracle import giou


def random_boxes(*shape: int, size: float = 100) -> Tensor:
    low = torch.rand(*shape, 2) * size / 2
    return torch.cat((low, low + 1 + torch.rand(*shape, 2) * size / 2), dim=-1)


def assign(costs: list[Tensor]) -> Tensor:
    """What a matcher whose costs are these, (S, L, n) for each image, matches."""
    matcher = HungarianMatcher()
    matcher.cost = lambda logits, boxes, cost, *rest: cost
    stages, queries = costs[0].shape[:2]
    logits, boxes = torch.zeros(stages, len(costs), queries, 1), torch.zeros(stages, len(costs), queries, 4)
    return matcher(logits, boxes, [(cost, None) for cost in costs], [(50, 50)] * len(costs))


def literal_cost(
    logit: float,
    box: list[float],
    truth: list[float],
    height: int,
    width: int,
    class_cost: float = 2,
    l1_cost: float = 5,
    giou_cost: float = 2,
    alpha: float = 0.25,
    gamma: float = 2,
) -> float:
    p = 1 / (1 + math.exp(-logit))
    focal = alpha * (1 - p) ** gamma * -math.log(p) - (1 - alpha) * p**gamma * -math.log(1 - p)
    l1 = sum(abs(a - b) / side for a, b, side in zip(box, truth, (width, height, width, height)))
    return class_cost * focal + l1_cost * l1 - giou_cost * giou(box, truth)


@pytest.mark.parametrize(
    "weights",
    [
        {},
        dict(class_cost=0.0, l1_cost=3.0, giou_cost=0.5),
        dict(class_cost=1.5, l1_cost=0.0, giou_cost=0.0, alpha=0.4, gamma=1.5),
    ],
    ids=str,
)
def test_cost_of_every_query_and_box(weights):
    S, L, n, height, width = 2, 5, 3, 60, 100
    logits, labels = torch.randn(S, L, 4) * 3, torch.tensor([3, 0, 3])
    boxes, truth = random_boxes(S, L), random_boxes(n)
    cost = HungarianMatcher(**weights).cost(logits, boxes, labels, truth, (height, width))
    assert cost.shape == (S, L, n)
    for s, query, k in itertools.product(range(S), range(L), range(n)):
        expected = literal_cost(
            logits[s, query, labels[k]].item(),
            boxes[s, query].tolist(),
            truth[k].tolist(),
            height,
            width,
            **weights,
        )
        assert cost[s, query, k].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_cost_is_finite_and_float32_for_extreme_bfloat16_logits():
    logits = torch.tensor([[[1000.0], [-1000.0]]], dtype=torch.bfloat16)
    cost = HungarianMatcher().cost(logits, random_boxes(1, 2), torch.tensor([0]), random_boxes(1), (50, 50))
    assert cost.dtype == torch.float32 and cost.isfinite().all()
    assert cost[0, 0] < cost[0, 1]


def test_a_known_assignment():
    # Greedy would take (0, 0) and be left with 9.
    first = torch.tensor([[[1.0, 2.0], [2.0, 9.0], [8.0, 8.0]], [[5.0, 0.0], [7.0, 3.0], [0.0, 5.0]]])
    second = torch.tensor([[[4.0], [1.0], [3.0]], [[0.0], [1.0], [2.0]]])
    found = set(map(tuple, assign([first, second]).t().tolist()))
    # stage, image, query, box
    assert found == {
        (0, 0, 0, 1),
        (0, 0, 1, 0),
        (1, 0, 0, 1),
        (1, 0, 2, 0),
        (0, 1, 1, 0),
        (1, 1, 0, 0),
    }


@pytest.mark.parametrize("L, n", [(5, 3), (3, 4)])
def test_the_assignment_is_the_cheapest_of_all(L, n):
    cost = torch.randn(1, L, n, dtype=torch.float64)
    _, _, query, box = assign([cost])
    assert len(query) == min(L, n) == len(query.unique()) == len(box.unique())
    rows, columns = (L, n) if L >= n else (n, L)
    table = cost[0] if L >= n else cost[0].T
    best = min(
        sum(table[row, column].item() for column, row in enumerate(chosen))
        for chosen in itertools.permutations(range(rows), columns)
    )
    assert cost[0, query, box].sum().item() == pytest.approx(best)


def test_images_without_boxes_have_no_matches():
    matcher, nothing = HungarianMatcher(), (torch.zeros(0).long(), torch.zeros(0, 4))
    logits, boxes = torch.randn(2, 4, 3), random_boxes(2, 4)
    empty = matcher.cost(logits, boxes, *nothing, (50, 50))
    assert empty.shape == (2, 4, 0)
    matched = matcher(logits[:, None], boxes[:, None], [nothing], [(50, 50)])
    assert matched.shape == (4, 0) and matched.dtype == torch.long
    assert set(assign([empty, torch.randn(2, 4, 1)])[1].tolist()) == {1}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_cost_that_is_not_finite_names_its_stage(bad):
    cost = torch.randn(3, 4, 2)
    cost[1, 2, 0] = bad
    with pytest.raises(FloatingPointError, match="stage 1: .*not finite"):
        assign([torch.randn(3, 4, 2), cost])


def test_every_stage_and_image_has_its_own_costs():
    S, B, L, sizes = 2, 3, 4, [(60, 100), (80, 50), (30, 30)]
    logits, boxes = torch.randn(S, B, L, 5), random_boxes(S, B, L)
    targets = [(torch.randint(5, (n,)), random_boxes(n)) for n in (2, 1, 3)]
    matcher = HungarianMatcher()
    matched = matcher(logits, boxes, targets, sizes)
    assert matched.shape == (4, S * (2 + 1 + 3))
    for b, (labels, truth) in enumerate(targets):
        alone = assign([matcher.cost(logits[:, b], boxes[:, b], labels, truth, sizes[b])])
        here = matched[:, matched[1] == b]
        assert torch.equal(here[[0, 2, 3]], alone[[0, 2, 3]])
