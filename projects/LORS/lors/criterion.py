"""AdaMixer's loss: each stage alone is matched and scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from lors.matcher import match, matching_cost

CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0


def set_loss(
    predictions: Sequence[tuple[Tensor, Tensor]],
    targets: Sequence[tuple[Tensor, Tensor]],
    image_sizes: Sequence[tuple[int, int]],
) -> dict[str, Tensor]:
    """The weighted losses of every stage.

    Args:
        predictions: for each stage, class logits (B, L, classes) and boxes xyxy (B, L, 4) in pixels.
        targets: for each image, labels (n,) and boxes xyxy (n, 4) in pixels.
        image_sizes: height and width of each image without padding.

    Returns:
        `loss_cls_i`, `loss_bbox_i`, `loss_giou_i` for stage i, each a sum divided by the number of matched
        boxes averaged over all processes.
    """
    logits = torch.stack([logits for logits, _ in predictions]).float()
    boxes = torch.stack([boxes for _, boxes in predictions]).float()
    num_stages = len(predictions)
    costs = [
        matching_cost(logits[:, b], boxes[:, b], labels, truth, image_sizes[b])
        for b, (labels, truth) in enumerate(targets)
    ]
    stage, image, query, number = match(costs)

    first = torch.tensor([0] + [len(labels) for labels, _ in targets[:-1]], device=logits.device).cumsum(0)
    chosen = first[image] + number
    labels = torch.cat([labels for labels, _ in targets])[chosen]
    truth = torch.cat([truth for _, truth in targets])[chosen]
    scale = boxes.new_tensor([(w, h, w, h) for h, w in image_sizes])[image]

    hot = torch.zeros_like(logits)
    hot[stage, image, query, labels] = 1
    focal = sigmoid_focal_loss(logits, hot, alpha=0.25, gamma=2.0).flatten(1).sum(dim=1)
    matched = boxes[stage, image, query]
    l1 = ((matched - truth) / scale).abs().sum(dim=1)
    giou = generalized_box_iou_loss(matched, truth)

    count = _average_count(len(stage) / num_stages, logits.device)
    l1, giou = (logits.new_zeros(num_stages).index_add(0, stage, loss) for loss in (l1, giou))
    losses = {
        "loss_cls": CLASS_WEIGHT * focal / count,
        "loss_bbox": L1_WEIGHT * l1 / count,
        "loss_giou": GIOU_WEIGHT * giou / count,
    }
    return {f"{name}_{i}": loss[i] for i in range(num_stages) for name, loss in losses.items()}


def _average_count(count: float, device: torch.device) -> Tensor:
    """Matched boxes of a stage, averaged over the processes; none anywhere counts as one in all."""
    total = torch.tensor(count, device=device)
    world = comm.get_world_size()
    if world > 1:
        torch.distributed.all_reduce(total)
    return total.clamp(min=1) / world
