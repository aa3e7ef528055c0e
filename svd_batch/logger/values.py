"""Finished items to the numbers that are logged. Knows neither W&B nor TensorBoard."""

from __future__ import annotations

import math
from collections import Counter

from svd_batch.console import Progress
from svd_batch.export.folder import PARAMETERS, is_metric
from svd_batch.records import FailureRecord, VideoRecord, flat


def of_video(record: VideoRecord) -> dict[str, float]:
    """Return a video's numbers: parameters/…, metrics/… and seconds/<phase>; null, NaN and infinite ones are left out.

    Whatever numeric column a record has is taken, so that a new metric needs nothing here.
    """
    values: dict[str, float] = {}
    for name, value in flat(record).items():
        if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
            continue
        if name in PARAMETERS:
            values[f"parameters/{name}"] = float(value)
        elif name.endswith("_s"):
            values[f"seconds/{name.removesuffix('_s')}"] = float(value)
        elif is_metric(name, value):
            values[f"metrics/{name}"] = float(value)
    return values


class Counts:
    """What a run has done so far."""

    def __init__(self, num_before: int) -> None:
        self._num_before = num_before
        """Items that earlier runs into this folder have finished: the axis goes on behind them."""
        self._failures: Counter[str] = Counter()
        self._num_made = 0

    @property
    def step(self) -> int:
        """Items finished, those of earlier runs too: the axis of all that is logged."""
        return self._num_before + self._num_made + self._failures.total()

    def add(self, result: VideoRecord | FailureRecord) -> None:
        """Count one finished item."""
        if isinstance(result, FailureRecord):
            self._failures[f"{result.stage}/{result.error_type}"] += 1
        else:
            self._num_made += 1

    def of_run(self, progress: Progress) -> dict[str, float]:
        """Return progress/done, failed, total, videos_per_minute and seconds_left, and failures/<stage>/<error>."""
        values: dict[str, float] = {
            "progress/done": self._num_made,
            "progress/failed": self._failures.total(),
            "progress/total": progress.total,
            "progress/videos_per_minute": progress.videos_per_minute,
        }
        if progress.seconds_left is not None:
            values["progress/seconds_left"] = progress.seconds_left
        return values | {f"failures/{kind}": count for kind, count in self._failures.items()}
