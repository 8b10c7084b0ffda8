"""Hungarian matching of queries to ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

CLASS_COST, L1_COST, GIOU_COST = 2.0, 5.0, 2.0


@torch.no_grad()
def matching_cost(
    logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """Cost of giving each ground-truth box of one image to each query.

    Args:
        logits: (S, L, classes), S stages.
        boxes: (S, L, 4), xyxy in pixels.
        labels: (n,), the class of each ground-truth box.
        truth: (n, 4), xyxy in pixels.
        image_size: height and width without padding.

    Returns:
        (S, L, n): 2 focal + 5 L1 (corners over the image's size) - 2 GIoU.
    """
    logits, boxes = logits.float(), boxes.float()
    logits = logits[..., labels]
    probability = logits.sigmoid()
    alpha, gamma = 0.25, 2.0
    positive = alpha * (1 - probability) ** gamma * -F.logsigmoid(logits)
    negative = (1 - alpha) * probability**gamma * -F.logsigmoid(-logits)
    h, w = image_size
    scale = boxes.new_tensor((w, h, w, h))
    l1 = torch.cdist(boxes / scale, truth / scale, p=1)
    giou = generalized_box_iou(boxes.flatten(0, 1), truth).view_as(l1)
    return CLASS_COST * (positive - negative) + L1_COST * l1 - GIOU_COST * giou


def match(costs: Sequence[Tensor]) -> Tensor:
    """The cheapest one-to-one assignment for each image and stage.

    Args:
        costs: (S, L, n_b) for each image b of the batch.

    Returns:
        (4, M) on the costs' device: stage, image, query and the ground-truth box's number in its image.

    Raises:
        FloatingPointError: a cost is not finite.
    """
    device = costs[0].device
    sizes = [cost.shape for cost in costs]
    # One copy to the host for all stages and images.
    flat = torch.cat([cost.flatten() for cost in costs]).cpu()
    columns = []
    for image, (cost, size) in enumerate(zip(flat.split([size.numel() for size in sizes]), sizes)):
        for stage, matrix in enumerate(cost.view(size).numpy()):
            if not torch.isfinite(torch.from_numpy(matrix)).all():
                raise FloatingPointError(
                    f"stage {stage}: a matching cost is not finite; the predictions have diverged"
                )
            query, box = linear_sum_assignment(matrix)
            columns.extend((stage, image, q, b) for q, b in zip(query, box))
    return torch.tensor(columns, dtype=torch.long).view(-1, 4).t().to(device)
