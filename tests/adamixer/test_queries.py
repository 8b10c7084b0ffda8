"""What the first stage is given."""

from __future__ import annotations

import torch

from lors.adamixer import Queries
from lors.adamixer.boxes import to_xyxy


def test_every_first_box_is_its_whole_image():
    content, xyzr = Queries(5, 16)([(600, 800), (333, 100)])
    assert content.shape == (2, 5, 16) and xyzr.shape == (2, 5, 4)
    expected = torch.tensor([[0.0, 0, 800, 600], [0, 0, 100, 333]])[:, None].expand(2, 5, 4)
    torch.testing.assert_close(to_xyxy(xyzr), expected, rtol=1e-5, atol=1e-3)


def test_content_is_the_normalised_embedding_of_every_image():
    queries = Queries(7, 64)
    content, _ = queries([(10, 20)] * 3)
    embedding = queries.content.double()
    mean, variance = embedding.mean(1, keepdim=True), embedding.var(1, keepdim=True, unbiased=False)
    expected = (embedding - mean) / torch.sqrt(variance + 1e-5)
    for image in content:
        torch.testing.assert_close(image.double(), expected, rtol=1e-4, atol=1e-5)


def test_only_the_content_is_learned_and_starts_as_a_standard_normal():
    queries = Queries(100, 256)
    assert [name for name, _ in queries.named_parameters()] == ["content"]
    assert list(queries.state_dict()) == ["content"]
    assert abs(queries.content.mean()) < 0.02 and abs(queries.content.std() - 1) < 0.02
    _, xyzr = queries([(10, 20)])
    assert not xyzr.requires_grad


def test_sizes_of_images_may_be_tensors_as_under_tracing():
    queries = Queries(3, 8)
    sizes = [(48, 96), (64, 32)]
    for made, expected in zip(queries([torch.tensor(size) for size in sizes]), queries(sizes)):
        assert torch.equal(made, expected)
