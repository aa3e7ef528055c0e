"""What a run on a Ray cluster tells Prometheus, through Ray's own exporter on each node.

Set in the driver, from the results as they come: it lives as long as the run, while a metric that an actor holds is
lost with it. Ray puts `ray_` before each name and `_total` behind a counter's. Its exporter replaces each value of a
histogram by the middle of its bucket, so seconds are a counter and histograms are for quantiles. docs/operating.md has
a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svd_batch.records import FailureRecord, VideoRecord

STAGES = ("load", "condition", "denoise", "decode", "embed", "encode", "commit")

BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0)


@dataclass(frozen=True)
class Metric:
    """One metric as the code names it."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    description: str
    tags: tuple[str, ...]

    @property
    def exported(self) -> tuple[str, ...]:
        """The names under which Prometheus finds it."""
        name = f"ray_{self.name}"
        if self.kind == "histogram":
            return tuple(f"{name}_{part}" for part in ("bucket", "count", "sum"))
        return (f"{name}_total",) if self.kind == "counter" else (name,)


RUN = ("model", "output")
VIDEOS = Metric("svd_batch_videos", "counter", "Videos committed.", (*RUN, "node"))
FAILURES = Metric("svd_batch_failures", "counter", "Videos that failed, by stage.", (*RUN, "node", "stage"))
STAGE_SECONDS = Metric("svd_batch_stage_seconds", "counter", "Seconds that videos took.", (*RUN, "node", "stage"))
VIDEO_SECONDS = Metric("svd_batch_video_seconds", "histogram", "Seconds from picture to frames.", (*RUN, "node"))
VIDEO_BYTES = Metric("svd_batch_video_bytes", "counter", "Bytes of the video files.", (*RUN, "node"))
MEMORY = Metric("svd_batch_peak_memory_bytes", "gauge", "Peak memory of the last video's making.", (*RUN, "node"))
VIDEOS_LEFT = Metric("svd_batch_videos_left", "gauge", "Videos of this run that are not settled yet.", RUN)
UNITS_WAITING = Metric("svd_batch_units_waiting", "gauge", "Units of this run that are not finished yet.", RUN)

METRICS = (VIDEOS, FAILURES, STAGE_SECONDS, VIDEO_SECONDS, VIDEO_BYTES, MEMORY, VIDEOS_LEFT, UNITS_WAITING)


class RunMetrics:
    """The metrics of one run; made once Ray has started. Where nothing is scraped they cost microseconds."""

    def __init__(self, output: str, model: str, *, num_videos: int, num_units: int) -> None:
        self._run = {"output": output, "model": model}
        self._metrics = {metric.name: _make(metric) for metric in METRICS}
        self._videos_left, self._units_waiting = num_videos, num_units
        self._set_left()

    def add(self, result: VideoRecord | FailureRecord, *, ends_unit: bool) -> None:
        """Count one result; `ends_unit`: it is its unit's last."""
        tags = {**self._run, "node": result.host or ""}
        if isinstance(result, FailureRecord):
            self._of(FAILURES).inc(1, {**tags, "stage": result.stage})
        else:
            self._of(VIDEOS).inc(1, tags)
            self._of(VIDEO_BYTES).inc(result.num_bytes, tags)
            self._of(VIDEO_SECONDS).observe(result.generate_s, tags)
            self._of(MEMORY).set(result.peak_memory_bytes, tags)
            for stage in STAGES:
                seconds = getattr(result, f"{stage}_s")
                if seconds:  # a counter takes nothing that isn't above 0
                    self._of(STAGE_SECONDS).inc(seconds, {**tags, "stage": stage})
        self._videos_left -= 1
        self._units_waiting -= ends_unit
        self._set_left()

    def _set_left(self) -> None:
        self._of(VIDEOS_LEFT).set(self._videos_left, self._run)
        self._of(UNITS_WAITING).set(self._units_waiting, self._run)

    def _of(self, metric: Metric) -> Any:
        return self._metrics[metric.name]


def _make(metric: Metric) -> Any:
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.description, list(BUCKETS_S), metric.tags)
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, metric.description, metric.tags)
