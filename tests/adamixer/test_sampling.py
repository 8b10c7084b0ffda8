"""The table of rows reads what one grid_sample per level reads."""

from __future__ import annotations

import pytest
import torch

from lors.adamixer.sampling import Pyramid, initial_offsets, sample_points
from oracle import literal_sampling

# (batch, queries, groups, points, channels of a group, (stride, height, width) of each level)
CASES = [
    (2, 5, 2, 3, 4, [(4, 9, 13), (8, 5, 7), (16, 3, 4), (32, 2, 2)]),
    (1, 1, 1, 1, 1, [(4, 1, 1)]),
    (3, 2, 1, 7, 5, [(8, 1, 6), (16, 1, 1)]),
    (1, 4, 4, 16, 2, [(2, 11, 3), (4, 6, 1), (64, 1, 1)]),
]


@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("batch, queries, groups, number, channels, shapes", CASES)
def test_sampling_is_grid_sample(batch, queries, groups, number, channels, shapes, spread):
    strides = [stride for stride, _, _ in shapes]
    levels = [
        torch.randn(batch, groups * channels, h, w, dtype=torch.float64, requires_grad=True)
        for _, h, w in shapes
    ]
    stride, h, w = shapes[0]
    span = torch.tensor([w * stride, h * stride, 6], dtype=torch.float64)
    points = torch.rand(batch, queries, groups, number, 3, dtype=torch.float64)
    # A spread above 1 puts most points outside, many of them far away.
    points = (((points - 0.5) * spread + 0.5) * span).requires_grad_()
    ours = Pyramid(levels, strides, groups).sample(points)
    theirs = literal_sampling(levels, strides, points, groups)
    assert ours.shape == (batch, queries, groups, number, channels)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    chosen = torch.randn_like(ours)
    for our, their in zip(
        *(torch.autograd.grad((read * chosen).sum(), [points, *levels]) for read in (ours, theirs))
    ):
        torch.testing.assert_close(our, their, rtol=1e-9, atol=1e-9)


def test_a_cells_centre_reads_the_cell_and_outside_reads_zero():
    level = torch.arange(12.0).view(1, 1, 3, 4)
    pyramid = Pyramid([level], [8], groups=1)
    x, y = torch.meshgrid(torch.arange(4) * 8.0 + 4, torch.arange(3) * 8.0 + 4, indexing="xy")
    points = torch.stack((x, y, torch.zeros_like(x)), dim=-1).view(1, 12, 1, 1, 3)
    expected = torch.arange(12.0)
    torch.testing.assert_close(pyramid.sample(points).flatten(), expected, rtol=0, atol=1e-5)
    for far in (-1e6, -5.0, 37.0, 1e6):
        assert not pyramid.sample(torch.full((1, 1, 1, 1, 3), far)).any()


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_point_that_is_not_a_number_reads_none(groups):
    levels = [torch.ones(1, groups, 4, 4), torch.ones(1, groups, 2, 2)]
    points = torch.ones(1, 2, groups, 1, 3)
    points[0, 1] = torch.nan
    read = Pyramid(levels, [8, 16], groups).sample(points)
    assert read[0, 0].isfinite().all() and read[0, 1].isnan().all()


def test_the_level_weight_is_a_gaussian_in_scale():
    levels = [torch.full((1, 1, 64 // s, 64 // s), float(s)) for s in (4, 8, 16, 32)]
    for z in (-3.0, 2.0, 3.5, 9.0):
        points = torch.tensor([32.0, 32.0, z]).view(1, 1, 1, 1, 3)
        weight = torch.exp(torch.tensor([-((z - level) ** 2) / 2 for level in (2, 3, 4, 5)]))
        expected = (weight * torch.tensor([4.0, 8, 16, 32])).sum() / weight.sum()
        torch.testing.assert_close(Pyramid(levels, (4, 8, 16, 32), 1).sample(points).squeeze(), expected)


def test_offsets_count_in_the_boxs_width_and_height():
    batch, queries, groups, number = 2, 3, 2, 5
    offsets = torch.randn(batch, queries, groups * number * 3)
    xyzr = torch.randn(batch, queries, 4)
    points = sample_points(offsets, xyzr, groups)
    assert points.shape == (batch, queries, groups, number, 3)
    for b in range(batch):
        for query in range(queries):
            x, y, z, r = xyzr[b, query].tolist()
            w, h = 2 ** (z - r / 2), 2 ** (z + r / 2)
            for k in range(groups):
                for p in range(number):
                    start = 3 * (k * number + p)
                    dx, dy, dz = offsets[b, query, start : start + 3].tolist()
                    expected = [x + dx * w, y + dy * h, z + dz]
                    assert points[b, query, k, p].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_one_gradient_does_not_end_up_in_another():
    levels = [torch.randn(1, 4, 3, 5, requires_grad=True)]
    points = torch.rand(1, 3, 2, 2, 3).mul(20).requires_grad_()
    pyramid = Pyramid(levels, [4], groups=2)
    first, second = pyramid.sample(points).sum(), pyramid.sample(2 * points).square().sum()
    # The points' alone, through both readings, then the levels' of one.
    torch.autograd.grad(first + second, points, retain_graph=True)
    (both,) = torch.autograd.grad(second, levels, retain_graph=True)
    (alone,) = torch.autograd.grad(Pyramid(levels, [4], groups=2).sample(2 * points).square().sum(), levels)
    torch.testing.assert_close(both, alone, rtol=0, atol=0)


def test_points_are_float32_even_from_bfloat16():
    assert (
        sample_points(torch.ones(1, 2, 6, dtype=torch.bfloat16), torch.ones(1, 2, 4), 2).dtype
        == torch.float32
    )


@pytest.mark.parametrize("number", [1, 4, 64])
def test_first_points_are_the_cell_centres_of_a_regular_grid(number):
    offsets = initial_offsets(3, number).view(3, number, 3)
    side = int(number**0.5)
    centres = [(i + 0.5) / side - 0.5 for i in range(side)]
    grid = {(round(x, 6), round(y, 6)) for x in centres for y in centres}
    for group in offsets:
        assert {(round(x, 6), round(y, 6)) for x, y, _ in group.tolist()} == grid
        assert (group[:, 2] == -1).all()


def test_first_points_are_random_where_no_square_grid_exists():
    offsets = initial_offsets(4, 32).view(4, 32, 3)
    assert (offsets[..., 2] == -1).all()
    assert offsets[..., :2].abs().max() <= 0.5
    assert len(offsets[..., :2].flatten(0, 1).unique(dim=0)) == 4 * 32
    assert offsets[..., :2].std() == pytest.approx(12**-0.5, rel=0.15)
