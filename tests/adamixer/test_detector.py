"""Images in, losses or Instances out, on a detector that is small enough to run everywhere."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn


def test_training_gives_the_losses_of_every_stage(tiny_model, random_image):
    losses = tiny_model().train()([random_image(2), random_image(1, 40, 90)])
    assert set(losses) == {f"loss_{name}_{i}" for name in ("cls", "bbox", "giou") for i in range(2)}
    assert all(loss.shape == () and loss.isfinite() and loss.requires_grad for loss in losses.values())


def test_the_criterion_is_given_predictions_targets_and_sizes(tiny_model, random_image):
    class Count(nn.Module):
        def forward(self, predictions, targets, image_sizes):
            given.append((predictions, targets, image_sizes))
            return {"loss": predictions[-1][0].sum()}

    given = []
    model, images = tiny_model().train(), [random_image(2), random_image(1, 40, 90)]
    model.criterion = Count()
    assert set(model(images)) == {"loss"}
    ((predictions, targets, image_sizes),) = given
    assert [tuple(size) for size in image_sizes] == [(50, 70), (40, 90)]
    assert [logits.shape for logits, _ in predictions] == [(2, 6, 3)] * 2
    for (labels, truth), image in zip(targets, images):
        assert torch.equal(labels, image["instances"].gt_classes)
        assert torch.equal(truth, image["instances"].gt_boxes.tensor)


@pytest.mark.parametrize("limit", [4, 18, 100])
def test_inference_returns_the_best_pairs_in_order(limit, tiny_model, random_image):
    model = tiny_model(max_detections=limit).eval()
    with torch.no_grad():
        (output,) = model([random_image()])
    found = output["instances"]
    assert isinstance(found, Instances) and found.image_size == (50, 70)
    # 6 queries x 3 classes
    assert len(found) == min(limit, 18)
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert ((found.scores > 0) & (found.scores < 1)).all()
    assert found.pred_classes.min() >= 0 and found.pred_classes.max() < 3


def test_each_detection_is_one_query_and_class_of_the_last_stage(tiny_model, random_image):
    model, image = tiny_model(max_detections=18).eval(), random_image()
    nn.init.normal_(model.decoder.stages[-1].regress[3].weight, std=0.05)
    seen = []
    handle = model.decoder.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        found = model([image])[0]["instances"]
    handle.remove()
    logits, boxes = seen[0][-1]
    expected = {}
    for query in range(6):
        box = boxes[0, query].clone()
        box[0::2], box[1::2] = box[0::2].clamp(0, 70), box[1::2].clamp(0, 50)
        for c in range(3):
            expected[round(logits[0, query, c].sigmoid().item(), 6)] = (c, box)
    assert len(expected) == 18
    for score, c, box in zip(found.scores, found.pred_classes, found.pred_boxes.tensor):
        expected_class, expected_box = expected[round(score.item(), 6)]
        assert c == expected_class
        torch.testing.assert_close(box, expected_box)


def test_detections_are_brought_to_the_asked_size(tiny_model, random_image):
    model, image = tiny_model().eval(), random_image()
    with torch.no_grad():
        plain = model([image])[0]["instances"]
        scaled = model([{**image, "height": 100, "width": 35}])[0]["instances"]
    assert scaled.image_size == (100, 35)
    factor = torch.tensor([0.5, 2, 0.5, 2])
    torch.testing.assert_close(scaled.pred_boxes.tensor, plain.pred_boxes.tensor * factor)
    assert torch.equal(scaled.scores, plain.scores)


def test_parameters_of_16_bits_train(tiny_model, random_image):
    image, model = random_image(), tiny_model().train()
    exact = sum(model([image]).values()).item()
    model.bfloat16()
    loss = sum(model([image]).values())
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.1)
    assert all(p.grad.isfinite().all() for p in model.decoder.parameters() if p.grad is not None)


def test_boxes_outside_of_their_image_are_left_out(tiny_model, random_image):
    model, images = tiny_model().eval(), [random_image(), random_image()]
    whole = model.decoder.stages[-1].regress[-1].bias
    with torch.no_grad():
        inside = [len(found["instances"]) for found in model(images)]
        whole[0] = 100  # of the boxes' sizes, to the right
        assert [len(found["instances"]) for found in model(images)] == [0, 0]
    assert inside == [10, 10]


def test_an_image_is_not_changed_by_the_padding_its_neighbour_needs(tiny_model, random_image):
    # Both are padded to 64 x 96, so that only the batch differs.
    model, small, large = tiny_model().eval(), random_image(2, 50, 70), random_image(2, 64, 96)
    with torch.no_grad():
        alone = model([small])[0]["instances"]
        beside = model([small, large])[0]["instances"]
    torch.testing.assert_close(alone.scores, beside.scores)
    torch.testing.assert_close(alone.pred_boxes.tensor, beside.pred_boxes.tensor)


def test_fixed_statistics_train_the_affine_part_alone(tiny_model, random_image):
    for fixed in (True, False):
        model = tiny_model(fixed_statistics=fixed).train()
        before = copy.deepcopy(model.state_dict())
        sum(model([random_image(2), random_image(1)]).values()).backward()
        statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
        assert statistics
        kept = [torch.equal(before[name], model.state_dict()[name]) for name in statistics]
        assert all(kept) if fixed else not any(kept)
        norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and all(m.weight.grad.any() and m.bias.grad.any() for m in norms)


@pytest.mark.parametrize("wrong", [3, -1])
def test_a_class_that_the_model_lacks_is_one_line(wrong, tiny_model, random_image):
    image = random_image(2)
    image["instances"].gt_classes[1] = wrong
    with pytest.raises(ValueError) as raised:
        tiny_model().train()([{**image, "file_name": "street/17.jpg"}])
    message = str(raised.value)
    assert "street/17.jpg" in message and str(wrong) in message and "0..2" in message
    assert "\n" not in message


def test_strides_of_backbone_and_decoder_must_agree(tiny_model):
    model = tiny_model()
    model.decoder.strides = (8, 16, 32, 64)
    with pytest.raises(ValueError, match=r"decoder.strides=\(8, 16, 32, 64\): .*\(4, 8, 16, 32\)"):
        type(model)(
            **{
                name: getattr(model, name) for name in ("backbone", "neck", "queries", "decoder", "criterion")
            },
            in_features=model.in_features,
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
        )


def test_the_architecture_is_registered():
    import lors

    assert META_ARCH_REGISTRY.get("AdaMixer") is lors.AdaMixer


def test_pixels_are_normalised_and_padded_to_the_largest_stride(tiny_model):
    model = tiny_model()
    image = torch.full((3, 50, 70), 140, dtype=torch.uint8)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model.eval()([{"image": image}])
    (batch,) = seen
    assert batch.shape == (1, 3, 64, 96) and batch.dtype == torch.float32
    expected = torch.tensor([(140 - 120) / 58, (140 - 115) / 57, (140 - 105) / 56])
    torch.testing.assert_close(batch[0, :, :50, :70], expected[:, None, None].expand(3, 50, 70))
    assert not batch[:, :, 50:].any() and not batch[:, :, :, 70:].any()


def test_bfloat16_autocast_keeps_boxes_in_float32(tiny_model, random_image):
    model = tiny_model()
    # torch's own bfloat16 convolutions are not what is asked here.
    model.backbone.requires_grad_(False)
    seen = []
    model.decoder.register_forward_hook(lambda module, args, output: seen.extend(output))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = model.eval()([random_image()])[0]["instances"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.train()([random_image()])
    assert seen[0][0].dtype == torch.bfloat16
    assert all(boxes.dtype == torch.float32 and boxes.isfinite().all() for _, boxes in seen)
    assert found.pred_boxes.tensor.dtype == torch.float32 and found.pred_boxes.tensor.isfinite().all()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_a_few_steps_learn_one_image(tiny_model, random_image):
    model, image = tiny_model().train(), random_image(1)
    image["instances"].gt_boxes = Boxes(torch.tensor([[10.0, 5, 60, 40]]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(30):
        loss = sum(model([image]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.5 * totals[0]


@pytest.mark.parametrize("size", [(1, 1), (4000, 32), (32, 4000)])
def test_images_of_odd_sizes(size, tiny_model, random_image):
    model = tiny_model()
    losses = model.train()([random_image(2, *size)])
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        found = model.eval()([random_image(2, *size)])[0]["instances"]
    assert found.image_size == size and found.pred_boxes.tensor.isfinite().all()
