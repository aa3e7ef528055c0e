"""Everything that the report says of some videos, in one go."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svd_batch.analysis import clips, effects, sentences
from svd_batch.analysis.axes import Axis, AxisCodes, find_axes
from svd_batch.analysis.bootstrap import LEVEL
from svd_batch.analysis.cells import CellTable, Pareto, cell_table, pareto
from svd_batch.analysis.clips import Distribution, Extremes, Flagged
from svd_batch.analysis.effects import Curve, Heatmap, Monotonicity, Sensitivity
from svd_batch.analysis.names import Metric, describe
from svd_batch.analysis.rows import Rows, rows_by_metric
from svd_batch.analysis.sentences import Sentence
from svd_batch.analysis.variance import Shares, shares
from svd_batch.analysis.videos import Cell, Values, Videos


@dataclass(frozen=True)
class Analysis:
    """What the videos of one or several folders show; in each tuple metric by metric, in the order of `metrics`."""

    outputs: tuple[str, ...]
    num_videos: int
    num_pictures: int
    level: float
    """Of all intervals."""
    axes: tuple[Axis, ...]
    metrics: tuple[Metric, ...]
    cells: tuple[Cell, ...]
    sentences: tuple[Sentence, ...]
    curves: tuple[Curve, ...]
    heatmaps: tuple[Heatmap, ...]
    monotonicities: tuple[Monotonicity, ...]
    shares: tuple[Shares, ...]
    sensitivities: tuple[Sensitivity, ...]
    pareto: Pareto | None
    """Motion against likeness; None where one of them has no values."""
    distributions: tuple[Distribution, ...]
    extremes: tuple[Extremes, ...]
    flagged: tuple[Flagged, ...]
    cell_table: CellTable


def analyse(videos: Videos, metrics: Sequence[str] | None = None) -> Analysis:
    """Return the analysis of all metrics that have values, or of those named (columns of numbers)."""
    names = videos.metrics if metrics is None else tuple(metrics)
    coded = find_axes(videos)
    axes = [c.axis for c in coded]
    parts = [_one_metric(videos, axes, metric, rows) for metric, rows in rows_by_metric(videos, coded, names)]
    has_both = {"motion", "likeness"} <= set(videos.metrics)
    return Analysis(
        outputs=videos.names,
        num_videos=len(videos),
        num_pictures=len(videos.images),
        level=LEVEL,
        axes=tuple(axes),
        metrics=tuple(describe(name) for name in names),
        cells=videos.cells,
        sentences=tuple(s for part in parts for s in part.sentences),
        curves=tuple(c for part in parts for c in part.curves),
        heatmaps=tuple(h for part in parts for h in part.heatmaps),
        monotonicities=tuple(m for part in parts for m in part.monotonicities),
        shares=tuple(part.shares for part in parts),
        sensitivities=tuple(s for part in parts for s in part.sensitivities),
        pareto=pareto(videos, {"motion": "high", "likeness": "high"}) if has_both else None,
        distributions=tuple(clips.distribution(name, videos.values(name)) for name in names),
        extremes=tuple(
            clips.extremes(videos, name, videos.values(name)) for name in names if not describe(name).is_flag
        ),
        flagged=tuple(clips.flagged(videos, name, videos.values(name)) for name in names if describe(name).is_flag),
        cell_table=cell_table(videos, coded, names),
    )


@dataclass(frozen=True)
class _Part:
    sentences: tuple[Sentence, ...]
    curves: tuple[Curve, ...]
    heatmaps: tuple[Heatmap, ...]
    monotonicities: tuple[Monotonicity, ...]
    shares: Shares
    sensitivities: tuple[Sensitivity, ...]


def _one_metric(videos: Videos, axes: list[Axis], metric: str, rows: Rows) -> _Part:
    values = videos.values(metric)
    averaged: Values = rows.average(values)
    responses = [effects.response(metric, axes, i, rows, averaged) for i in range(len(axes))]
    curves = [effects.curve(found) for found in responses]
    split = shares(metric, axes, rows, values)
    said = [sentences.effect(found, curve) for found, curve in zip(responses, curves, strict=True)]
    pairs = itertools.combinations(range(len(axes)), 2)
    return _Part(
        tuple(s for s in [*said, sentences.variance(split) if axes else None] if s),
        tuple(curves),
        tuple(effects.heatmap(metric, axes, pair, rows, averaged) for pair in pairs),
        tuple(m for m in map(effects.monotonicity, responses) if m),
        split,
        tuple(effects.sensitivity(found, videos.images) for found in responses),
    )


def to_json(result: Any) -> str:
    """Return a result as JSON on one line: dataclasses as objects, no NaN."""
    return json.dumps(dataclasses.asdict(result), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


__all__ = ["Analysis", "AxisCodes", "analyse", "to_json"]
