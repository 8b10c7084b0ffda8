"""Boxes of absurd sizes, many queries and few bits: all stays finite."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

SIDES = {"tiny": 0.01, "huge": 10_000.0, "normal": 20.0}


def image_of(side, coincident, boxes=3, size=(64, 96)):
    corner = torch.zeros(boxes, 2) if coincident else torch.rand(boxes, 2) * 40
    truth = Instances(size, gt_boxes=Boxes(torch.cat((corner, corner + side), dim=1)))
    truth.gt_classes = torch.arange(boxes) % 3
    return {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8), "instances": truth}


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("coincident", [False, True])
@pytest.mark.parametrize("side", SIDES)
def test_boxes_in_the_truth(side, coincident, bfloat16, tiny_model):
    model = tiny_model(fixed_statistics=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        losses = model([image_of(SIDES[side], coincident), image_of(SIDES["normal"], coincident)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("z", [-6.6, 13.3])  # log2 of 0.01 and of 10,000 pixels
def test_boxes_of_the_queries(z, tiny_model):
    model = tiny_model()
    decoder = model.decoder
    features = [torch.randn(1, 8, 64 // s, 96 // s, requires_grad=True) for s in decoder.strides]
    content = torch.randn(1, 6, 16, requires_grad=True)
    xyzr = torch.cat((torch.full((1, 6, 2), 30.0), torch.full((1, 6, 1), z), torch.zeros(1, 6, 1)), dim=-1)
    predictions = decoder(features, content, xyzr)
    targets = [(torch.tensor([0, 1]), torch.tensor([[1.0, 1, 1.01, 1.01], [0, 0, 96, 64]]))]
    sum(model.criterion(predictions, targets, [(64, 96)]).values()).backward()
    assert all(tensor.isfinite().all() for stage in predictions for tensor in stage)
    assert all(p.grad.isfinite().all() for p in [*decoder.parameters(), content] if p.grad is not None)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_many_queries(bfloat16, tiny_model):
    model = tiny_model(num_queries=900)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        losses = model([image_of(20.0, False, boxes=40)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_no_boxes_at_all(tiny_model):
    model = tiny_model()
    losses = model([image_of(20.0, False, boxes=0)] * 2)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
