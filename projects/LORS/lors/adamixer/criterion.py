"""AdaMixer's loss: each stage alone is matched and scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from lors.adamixer.boxes import generalized_iou, on_device
from lors.errors import UserError


class SetCriterion(nn.Module):
    """The losses of every stage.

    Args:
        matcher: assigns queries to ground truth, see `HungarianMatcher`.
        class_weight, l1_weight, giou_weight: of the focal loss over all queries, and of L1 (corners over the
            image's size) and 1 - GIoU of the matched ones.
        alpha, gamma: of the focal loss.
        stage_weights: one for each stage, of its three losses; None for 1 everywhere, as published. The first
            stages' losses are the largest, as their boxes start from the whole image.

    Attributes:
        class_error: (), the percentage of the last stage's matched queries in the last batch whose best class
            is not the matched one; None where nothing was matched.
    """

    class_error: Tensor | None = None

    def __init__(
        self,
        matcher: nn.Module,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        stage_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.alpha, self.gamma = alpha, gamma
        self.stage_weights = None if stage_weights is None else tuple(stage_weights)

    def forward(
        self,
        predictions: Sequence[tuple[Tensor, Tensor]],
        targets: Sequence[tuple[Tensor, Tensor]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        """Scores all stages.

        Args:
            predictions: for each stage, class logits (B, L, classes) and boxes xyxy (B, L, 4) in pixels.
            targets: for each image, labels (n,) and boxes xyxy (n, 4) in pixels.
            image_sizes: height and width of each image without padding.

        Returns:
            `loss_cls_i`, `loss_bbox_i`, `loss_giou_i` for stage i, each a weighted sum divided by the number
            of matched boxes averaged over all processes.

        Raises:
            UserError: the number of stages is not that of `stage_weights`.
        """
        logits = torch.stack([logits for logits, _ in predictions]).float()
        boxes = torch.stack([boxes for _, boxes in predictions]).float()
        num_stages = len(predictions)
        if self.stage_weights and len(self.stage_weights) != num_stages:
            raise UserError(
                f"stage_weights={self.stage_weights}: must be one for each of {num_stages} stages"
            )
        stage, image, query, number = self.matcher(logits, boxes, targets, image_sizes)

        counts = on_device([0, *(len(labels) for labels, _ in targets[:-1])], logits).long()
        chosen = counts.cumsum(0)[image] + number
        labels = torch.cat([labels for labels, _ in targets])[chosen]
        truth = torch.cat([truth for _, truth in targets])[chosen]
        scale = on_device([(w, h, w, h) for h, w in image_sizes], boxes)[image]

        hot = torch.zeros_like(logits)
        hot.index_put_((stage, image, query, labels), logits.new_ones(()))
        focal = sigmoid_focal_loss(logits, hot, alpha=self.alpha, gamma=self.gamma).flatten(1).sum(dim=1)
        matched = boxes[stage, image, query]
        l1 = ((matched - truth) / scale).abs().sum(dim=1)
        giou = 1 - generalized_iou(matched, truth)

        # Left on the device: to ask for it here would wait for it.
        right = (logits.detach()[stage, image, query].argmax(dim=1) == labels) & (stage == num_stages - 1)
        self.class_error = 100 - right.sum() * (100 * num_stages / len(stage)) if len(stage) else None

        count = _average_count(len(stage) / num_stages, logits.device)
        share = (on_device(self.stage_weights, logits) if self.stage_weights else 1) / count
        l1, giou = (logits.new_zeros(num_stages).index_add(0, stage, loss) for loss in (l1, giou))
        losses = {
            "loss_cls": self.class_weight * focal * share,
            "loss_bbox": self.l1_weight * l1 * share,
            "loss_giou": self.giou_weight * giou * share,
        }
        of_stages = {name: loss.unbind() for name, loss in losses.items()}
        return {f"{name}_{i}": of_stages[name][i] for i in range(num_stages) for name in losses}


def _average_count(count: float, device: torch.device) -> Tensor:
    """Matched boxes of a stage, averaged over the processes; none anywhere counts as one in all."""
    total = torch.full((), count, device=device)
    world = comm.get_world_size()
    if world > 1:
        torch.distributed.all_reduce(total)
    return total.clamp(min=1) / world
