"""What can be sorted and filtered by: metrics, scores and costs, as the page names them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from svd_batch import metrics
from svd_batch.report.folders import Sweep


@dataclass(frozen=True)
class Measure:
    """One column of numbers or flags."""

    name: str
    title: str
    unit: str = ""
    better: str | None = None
    """`high`, `low`, or None where neither is better in itself."""
    is_flag: bool = False
    is_metric: bool = True
    """Whether it says something of the clip rather than of what it cost."""


def _measure(metric: metrics.Metric) -> Measure:
    better: dict[str | None, str] = {"higher": "high", "lower": "low"}
    unit = "" if metric.is_flag else metric.short_unit
    title = metric.title.removesuffix(" degree") if metric.is_flag else metric.title
    return Measure(metric.name, title, unit, better.get(metric.better), metric.is_flag)


METRICS = (*map(_measure, metrics.METRICS.values()), Measure("refine_score", "refine's score"))
COSTS = (
    Measure("generate_s", "generation", "s", "low", is_metric=False),
    Measure("num_bytes", "file size", "bytes", "low", is_metric=False),
)


def measures(sweep: Sweep) -> Iterator[Measure]:
    """Yield what the table has values of; a column of text under a metric's name is none."""
    for measure in (*METRICS, *COSTS):
        if sweep.has(measure.name) and str(sweep.table[measure.name].type) in _NUMBERS:
            yield measure


_NUMBERS = {"bool", "float", "double", "halffloat", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"}
