"""Running a model over a dataset and scoring what it finds."""

from __future__ import annotations

import contextlib
import datetime
import io
import itertools
import json
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate
from torch import nn
from torch.utils.data import DataLoader

from .data.datasets import MetadataCatalog, read_coco
from .structures import BoxMode

logger = logging.getLogger(__name__)


def inference_on_dataset(
    model: nn.Module, data_loader: DataLoader, evaluator: COCOEvaluator
) -> dict[str, Any]:
    """Run model in evaluation mode over the loader, without gradients; returns the results."""
    total = len(data_loader)
    logger.info(f"Running the model on {total} batches")
    evaluator.reset()
    was_training = model.training
    model.eval()
    start = last_log = time.perf_counter()
    with torch.no_grad():
        for number, inputs in enumerate(data_loader, start=1):
            evaluator.process(inputs, model(inputs))
            now = time.perf_counter()
            if now - last_log > 5:
                last_log = now
                per_batch = (now - start) / number
                eta = datetime.timedelta(seconds=int(per_batch * (total - number)))
                logger.info(f"Batch {number} of {total}, {per_batch:.4f} s/iter, {eta} left")
    model.train(was_training)
    logger.info(f"Done in {time.perf_counter() - start:.1f} s")
    return evaluator.evaluate()


def print_csv_format(results: Mapping[str, Mapping[str, float]]) -> None:
    """Log the main metrics of each task in lines that can be pasted into a table."""
    for task, result in results.items():
        main = {name: value for name, value in result.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(main))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in main.values()))


def _mean_precision(precision: np.ndarray) -> float:
    """Mean in percent over the entries that have ground truth; nan if none has."""
    valid = precision[precision > -1]
    return float(np.mean(valid) * 100) if valid.size else float("nan")


class COCOEvaluator:
    """COCO's average precision of boxes, over all classes and of each, for a registered dataset.

    The detections go to coco_instances_results.json in `output_dir`.
    """

    def __init__(self, dataset_name: str, *, output_dir: str, max_dets_per_image: int | None = None) -> None:
        # None is for COCO's own limit.
        self._limit = 100 if max_dets_per_image is None else max_dets_per_image
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = output_dir
        self._coco = read_coco(self._metadata.json_file)
        # pycocotools copies it without asking whether it is there.
        self._coco.dataset.setdefault("info", {})

    def reset(self) -> None:
        self._detections: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        json_ids = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        for item, output in zip(inputs, outputs):
            found = output["instances"].to("cpu")
            boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            classes, scores = found.pred_classes.tolist(), found.scores.tolist()
            for box, score, category in zip(boxes.tolist(), scores, classes):
                what = {"image_id": item["image_id"], "category_id": json_ids[category]}
                self._detections.append({**what, "bbox": box, "score": score})

    def evaluate(self) -> dict[str, Any]:
        """{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>"...}}, in percent."""
        os.makedirs(self._output_dir, exist_ok=True)
        path = os.path.join(self._output_dir, "coco_instances_results.json")
        with open(path, "w") as f:
            json.dump(self._detections, f)
        logger.info(f"Saved results to {path}")
        return {"bbox": self._score()}

    def _score(self) -> dict[str, float]:
        metrics = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        if not self._detections:
            logger.warning("The model found nothing")
            return dict.fromkeys(metrics, float("nan"))
        with contextlib.redirect_stdout(io.StringIO()):
            coco_eval = COCOeval(self._coco, self._coco.loadRes(self._detections), "bbox")
            coco_eval.params.maxDets = [1, 10, self._limit]
            coco_eval.evaluate()
            coco_eval.accumulate()
        # Axes: IoU threshold 0.5 to 0.95, recall, class, area (all, s, m, l), number of detections.
        precision = coco_eval.eval["precision"][..., -1]
        parts = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]]
        parts += [precision[..., area] for area in (1, 2, 3)]
        results = {metric: _mean_precision(part) for metric, part in zip(metrics, parts)}
        style = {"tablefmt": "pipe", "floatfmt": ".3f"}
        table = tabulate([results.values()], results.keys(), **style, numalign="center")
        logger.info("Average precision of boxes:\n" + table)
        classes = self._metadata.thing_classes
        if len(classes) > 1:
            per_class = {c: _mean_precision(precision[:, :, i, 0]) for i, c in enumerate(classes)}
            cells = list(itertools.chain(*per_class.items()))
            rows = [cells[i : i + 6] for i in range(0, len(cells), 6)]
            table = tabulate(rows, ["category", "AP"] * (len(rows[0]) // 2), **style, numalign="left")
            logger.info("Average precision of each class:\n" + table)
            results.update({f"AP-{name}": ap for name, ap in per_class.items()})
        return results
