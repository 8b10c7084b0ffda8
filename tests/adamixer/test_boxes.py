"""Box coordinates against their definitions, a number at a time."""

from __future__ import annotations

import math

import pytest
import torch

from lors.adamixer.boxes import (
    intersection_over_first,
    position_embedding,
    refine,
    size_of,
    to_xyxy,
)


def random_xyzr(*shape: int) -> torch.Tensor:
    xy = torch.rand(*shape, 2, dtype=torch.float64) * 200
    return torch.cat((xy, torch.randn(*shape, 2, dtype=torch.float64) + torch.tensor([4, 0])), dim=-1)


def test_size_and_corners_invert_the_definition():
    w, h = torch.rand(2, 50, dtype=torch.float64) * 300 + 1
    x, y = torch.rand(2, 50, dtype=torch.float64) * 300
    xyzr = torch.stack((x, y, torch.log2(torch.sqrt(w * h)), torch.log2(h / w)), dim=1)
    torch.testing.assert_close(size_of(xyzr[:, 2:]), torch.stack((w, h), dim=1))
    corners = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=1)
    torch.testing.assert_close(to_xyxy(xyzr), corners)


def test_refinement_moves_by_the_boxs_own_scale():
    xyzr, delta = random_xyzr(2, 3), torch.randn(2, 3, 4)
    new = refine(xyzr, delta)
    for at in [(b, i) for b in range(2) for i in range(3)]:
        x, y, z, r = xyzr[at].tolist()
        dx, dy, dz, dr = delta[at].tolist()
        assert new[at].tolist() == pytest.approx([x + dx * 2**z, y + dy * 2**z, z + dz, r + dr])


def test_a_refined_box_is_float32_even_from_bfloat16():
    assert refine(torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_intersection_is_divided_by_the_area_of_the_first():
    boxes = to_xyxy(random_xyzr(2, 9))
    found = intersection_over_first(boxes)
    for b in range(2):
        for i, (x0, y0, x1, y1) in enumerate(boxes[b].tolist()):
            for j, (u0, v0, u1, v1) in enumerate(boxes[b].tolist()):
                w, h = min(x1, u1) - max(x0, u0), min(y1, v1) - max(y0, v0)
                expected = max(w, 0) * max(h, 0) / ((x1 - x0) * (y1 - y0))
                assert found[b, i, j].item() == pytest.approx(expected, rel=1e-9)


def test_intersection_of_a_box_without_area_is_finite():
    boxes = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 2]])
    assert intersection_over_first(boxes).isfinite().all()


def test_position_embedding_interleaves_sine_and_cosine():
    xyzr, dim = random_xyzr(3), 24
    embedding = position_embedding(xyzr, dim)
    assert embedding.shape == (3, dim)
    quarter = dim // 4
    for i in range(3):
        for part, value in enumerate(xyzr[i].tolist()):
            value /= 1000 if part < 2 else 1
            for k in range(0, quarter, 2):
                angle = value / 10000 ** (k / quarter)
                pair = embedding[i, part * quarter + k : part * quarter + k + 2].tolist()
                assert pair == pytest.approx([math.sin(angle), math.cos(angle)])
