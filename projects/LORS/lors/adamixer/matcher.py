"""Hungarian matching of queries to ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from lors.adamixer.boxes import generalized_iou, on_device


class HungarianMatcher(nn.Module):
    """The cheapest one-to-one assignment of queries to ground-truth boxes, for each image and stage.

    The cost of a query and a box is class_cost times the focal cost, l1_cost times the L1 distance of the
    corners over the image's size, and giou_cost times minus the GIoU.

    Args:
        class_cost, l1_cost, giou_cost: weights of the three.
        alpha, gamma: of the focal cost.
    """

    def __init__(
        self,
        class_cost: float = 2.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.class_cost, self.l1_cost, self.giou_cost = class_cost, l1_cost, giou_cost
        self.alpha, self.gamma = alpha, gamma

    @torch.no_grad()
    def forward(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: Sequence[tuple[Tensor, Tensor]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Matches all stages and images.

        Args:
            logits: (S, B, L, classes), S stages.
            boxes: (S, B, L, 4), xyxy in pixels.
            targets: for each image, labels (n,) and boxes xyxy (n, 4) in pixels.
            image_sizes: height and width of each image without padding.

        Returns:
            (4, M) on the logits' device: stage, image, query and the ground-truth box's number in its image.

        Raises:
            FloatingPointError: a cost is not finite.
        """
        costs = [
            self.cost(logits[:, b], boxes[:, b], labels, truth, image_sizes[b])
            for b, (labels, truth) in enumerate(targets)
        ]
        # One copy to the host for all stages and images.
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        matched = []
        for image, part in enumerate(flat.split([cost.numel() for cost in costs])):
            for stage, matrix in enumerate(part.view(costs[image].shape)):
                if not matrix.isfinite().all():
                    raise FloatingPointError(
                        f"stage {stage}: a matching cost is not finite; the predictions have diverged"
                    )
                query, box = linear_sum_assignment(matrix.numpy())
                matched.extend((stage, image, q, b) for q, b in zip(query, box))
        matched = torch.tensor(matched, dtype=torch.long).view(-1, 4).t()
        return matched.to(logits.device, non_blocking=True)

    def cost(
        self, logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor, image_size: tuple[int, int]
    ) -> Tensor:
        """Of one image: logits (S, L, classes), boxes (S, L, 4), labels (n,), truth (n, 4) -> (S, L, n)."""
        logits = logits.float()[..., labels]
        boxes = boxes.float()
        probability = logits.sigmoid()
        positive = self.alpha * (1 - probability) ** self.gamma * -F.logsigmoid(logits)
        negative = (1 - self.alpha) * probability**self.gamma * -F.logsigmoid(-logits)
        h, w = image_size
        scale = on_device((w, h, w, h), boxes)
        l1 = torch.cdist(boxes / scale, truth / scale, p=1)
        giou = generalized_iou(boxes[..., None, :], truth)
        return self.class_cost * (positive - negative) + self.l1_cost * l1 - self.giou_cost * giou
