"""The meta-architecture: Detectron2's images in, losses or Instances out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from lors.adamixer.boxes import on_device


@META_ARCH_REGISTRY.register()
class AdaMixer(nn.Module):
    """A query-based detector (Gao et al., CVPR 2022).

    Args:
        backbone: a Detectron2 backbone.
        in_features: names of its outputs, finest first.
        neck: from those outputs to feature levels of d_feat channels.
        queries: image sizes -> content (B, L, d_q) and boxes (B, L, 4).
        decoder: features and queries -> for each stage, logits and boxes.
        criterion: predictions of all stages, targets and image sizes -> a dict of losses.
        pixel_mean, pixel_std: of the input channels, in the order of the data mapper's `image_format`.
        max_detections: how many of the best query-class pairs an image returns; there is no NMS.
        fixed_statistics: BatchNorms of the backbone use their stored statistics in training too, while their
            weight and bias train.
    """

    # Convolutions are faster with it on a CPU and on tensor cores, and the decoder's table has it too.
    memory_format = torch.channels_last

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_features: Sequence[str],
        neck: nn.Module,
        queries: nn.Module,
        decoder: nn.Module,
        criterion: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        max_detections: int = 100,
        fixed_statistics: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.queries, self.decoder = backbone, neck, queries, decoder
        self.criterion = criterion
        self.in_features = tuple(in_features)
        self.max_detections = max_detections
        self.fixed_statistics = fixed_statistics
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)
        strides = tuple(backbone.output_shape()[name].stride for name in self.in_features)
        if strides != decoder.strides:
            raise ValueError(f"decoder.strides={decoder.strides}: the backbone's outputs have {strides}")

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        from lors.yacs import model_arguments

        return model_arguments(cfg)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> AdaMixer:
        super().train(mode)
        if self.fixed_statistics:
            for module in self.backbone.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                    module.eval()
        return self

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Detectron2's dataset dicts -> a dict of losses in training, else `[{"instances": Instances}]`.

        Each dict has "image" (C, H, W), in training "instances" with gt_boxes and gt_classes, and may have
        "height" and "width", to whose scale the detections are brought.

        Raises:
            ValueError: a ground-truth class is not one of the decoder's.
        """
        images = self._preprocess(batched_inputs)
        predictions = self.predict(images.tensor, images.image_sizes)
        if self.training:
            return self.criterion(predictions, self._targets(batched_inputs), images.image_sizes)
        wanted = [
            (image.get("height", h), image.get("width", w))
            for image, (h, w) in zip(batched_inputs, images.image_sizes)
        ]
        return [{"instances": found} for found in self._detect(*predictions[-1], images.image_sizes, wanted)]

    def predict(self, images: Tensor, image_sizes: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Normalised images (B, C, H, W), padded, and their sizes without padding -> the decoder's output."""
        features = self.backbone(images.contiguous(memory_format=self.memory_format))
        features = self.neck([features[name] for name in self.in_features])
        return self.decoder(features, *self.queries(image_sizes))

    def _preprocess(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        images = [
            (image["image"].to(self.device, non_blocking=True).float() - self.pixel_mean) / self.pixel_std
            for image in batched_inputs
        ]
        images = [image.to(self.pixel_mean.dtype) for image in images]
        return ImageList.from_tensors(images, size_divisibility=max(self.decoder.strides))

    def _targets(self, batched_inputs: Sequence[dict[str, Any]]) -> list[tuple[Tensor, Tensor]]:
        labels_of, boxes_of = [], []
        for image in batched_inputs:
            truth = image["instances"]
            labels = truth.gt_classes
            # Before the copy to the device, where asking would wait for it.
            if len(labels) and not 0 <= labels.min() <= labels.max() < self.decoder.num_classes:
                raise ValueError(
                    f"{image.get('file_name', 'an image')}: class ids {labels.unique().tolist()} are not all "
                    f"in the model's 0..{self.decoder.num_classes - 1}"
                )
            labels_of.append(labels)
            boxes_of.append(truth.gt_boxes.tensor)
        # In one copy each for all images
        labels, boxes = (
            torch.cat(parts).to(self.device, non_blocking=True).split([len(part) for part in parts])
            for parts in (labels_of, boxes_of)
        )
        return list(zip(labels, boxes))

    def _detect(
        self,
        logits: Tensor,
        boxes: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        wanted: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """As Detectron2's detector_postprocess, which waits for the device several times for each image."""
        boxes, scores, classes = best_pairs(logits, boxes, self.max_detections)
        scale = [(W / w, H / h, W / w, H / h) for (h, w), (H, W) in zip(image_sizes, wanted)]
        limit = [(W, H, W, H) for H, W in wanted]
        boxes = boxes * on_device(scale, boxes)[:, None]
        boxes = boxes.clamp(min=0).minimum(on_device(limit, boxes)[:, None])
        not_empty = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        counts, kept = not_empty.sum(dim=1).tolist(), not_empty.flatten().nonzero().squeeze(1)
        fields = (field.flatten(0, 1)[kept].split(counts) for field in (boxes, scores, classes))
        return [
            Instances(size, pred_boxes=Boxes(box), scores=score, pred_classes=label)
            for size, box, score, label in zip(wanted, *fields)
        ]


def best_pairs(logits: Tensor, boxes: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The query-class pairs of each image with the highest scores, best first.

    logits (B, L, classes), boxes (B, L, 4) -> boxes (B, N, 4), scores (B, N) and classes (B, N); N is `limit`
    or, if that is less, L times classes.
    """
    num_classes = logits.shape[-1]
    probability = logits.float().sigmoid().flatten(1)
    scores, pair = probability.topk(min(limit, probability.shape[1]))
    query = (pair // num_classes)[..., None].expand(-1, -1, 4)
    return boxes.gather(1, query), scores, pair % num_classes
