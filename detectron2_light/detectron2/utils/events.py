"""Numbers that training produces, and where they are written."""

from __future__ import annotations

import datetime
import json
import logging
from collections import defaultdict
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

logger = logging.getLogger(__name__)


class EventStorage:
    """Scalars by name, each with the iteration it belongs to."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smooth: dict[str, bool] = {}

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True) -> None:
        """Add a value; with `smoothing_hint` writers show the median of recent values instead."""
        self._history[name].update(float(value), self.iter)
        self._smooth[name] = smoothing_hint

    def put_scalars(self, *, smoothing_hint: bool = True, **scalars: Any) -> None:
        for name, value in scalars.items():
            self.put_scalar(name, value, smoothing_hint)

    def histories(self) -> dict[str, HistoryBuffer]:
        return self._history

    def count_samples(self, name: str) -> int:
        """Number of values of a scalar within its last 20 iterations."""
        values = self._history[name].values()
        return sum(iteration > values[-1][1] - 20 for _, iteration in values)

    def latest_with_smoothing_hint(self) -> dict[str, tuple[float, int]]:
        """The last value of each scalar, or the recent median if it is to be smoothed, and its iteration."""
        result = {}
        for name, history in self._history.items():
            value, iteration = history.values()[-1]
            smooth = self._smooth[name]
            result[name] = (history.median(self.count_samples(name)) if smooth else value, iteration)
        return result


class JSONWriter:
    """Appends one line of JSON for each iteration with something new."""

    def __init__(self, json_file: str) -> None:
        self._json_file = json_file
        self._last_written = -1

    def write(self, storage: EventStorage) -> None:
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint().items():
            if iteration > self._last_written:
                rows[iteration][name] = value
        self._last_written = max(rows, default=self._last_written)
        with open(self._json_file, "a") as f:
            for iteration, row in sorted(rows.items()):
                f.write(json.dumps({**row, "iteration": iteration}, sort_keys=True) + "\n")


class CommonMetricPrinter:
    """Logs losses, times, learning rate and memory; also puts `eta_seconds` into the storage."""

    def __init__(self, max_iter: int) -> None:
        self._max_iter = max_iter

    def write(self, storage: EventStorage) -> None:
        # The last call comes after the end of training, with nothing new.
        if storage.iter == self._max_iter:
            return
        parts = [f"iter: {storage.iter}"]
        known = storage.histories()
        if "time" in known:
            seconds = known["time"].median(1000) * (self._max_iter - storage.iter - 1)
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds))}")
        for name, history in known.items():
            if "loss" in name:
                parts.append(f"{name}: {history.median(storage.count_samples(name)):.4g}")
        for name in ("time", "data_time"):
            if name in known:
                average = known[name].avg(storage.count_samples(name))
                parts.append(f"{name}: {average:.4f}  last_{name}: {known[name].latest():.4f}")
        if "lr" in known:
            parts.append(f"lr: {known['lr'].latest():.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        logger.info(" " + "  ".join(parts))
