"""The answer, which comes first on the page: what each parameter does, in sentences, tables and figures.

`answer` turns an analysis into what templates/answer.html shows; static/answer.css colours it. Nothing here knows the
rest of the page.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from svd_batch.analysis import Analysis, Metric, Videos, wording
from svd_batch.analysis.cells import by_cell, quantiles
from svd_batch.analysis.effects import Curve
from svd_batch.report import front, sentences, tables
from svd_batch.report.canvas import Canvas, Drawn
from svd_batch.report.heatmaps import HeatTable, heat_span, heat_table
from svd_batch.report.limits import limits
from svd_batch.report.meanings import meaning
from svd_batch.report.plots import draw_curve, metric_label, span_of
from svd_batch.report.sentences import Said

MOST_SQUARES = 30_000
"""Cells of all heatmaps together; beyond these, heatmaps of the metrics that come last are left out."""
MOST_PICTURES = 40
"""Single pictures that a curve shows."""
_MOST_VALUES = 1200
"""Their values in one curve, at most."""


@dataclass(frozen=True)
class Card:
    """All of one metric."""

    name: str
    title: str
    unit: str
    meaning: str
    better: str
    sentences: tuple[Said, ...]
    curves: tuple[Markup, ...]
    heatmaps: tuple[HeatTable, ...]
    num_shown: int
    """Single pictures in the curves."""
    has_missing_heatmaps: bool
    has_intervals: bool

    @property
    def headline(self) -> str:
        """Return the sentence that stands for the metric while it is folded: the first that states an effect."""
        stated = [said for said in self.sentences if said.kind in sentences.STATED]
        return next((said.text for said in [*stated, *self.sentences]), "")


def answer(
    analysis: Analysis, seconds: Sequence[float | None] | None = None, *, score: str = "OUTPUT"
) -> dict[str, Any]:
    """Return what templates/answer.html shows, as `answer`.

    `seconds` is what a video took, by cell (`cell_seconds`); `score` names the folders in the advice to measure.
    """
    cards = _cards(analysis) if analysis.axes else []
    chosen = [card for card in cards if card.name in sentences.FIRST] or cards[:1]
    canvas = Canvas()
    drawn = front.draw_front(analysis, canvas)
    axes, steady = tables.steadiness(analysis)
    return {
        "has_metrics": bool(analysis.metrics),
        "score": score,
        "lead": sentences.lead(analysis) if analysis.axes else [],
        "flags": _flags(analysis),
        "without_effect": sentences.without_effect(analysis),
        "kinds": tables.kinds(analysis),
        "bars": tables.bars(analysis),
        "steady_axes": axes,
        "steady": steady,
        "cards": chosen,
        "more": [card for card in cards if card not in chosen],
        "front": front.front(analysis, seconds),
        "front_plot": Markup(canvas.svg(drawn)) if drawn else None,
        "single": [] if analysis.axes else _single(analysis),
        "limits": limits(analysis) if analysis.metrics else [],
    }


def cell_seconds(videos: Videos) -> list[float | None]:
    """Return the median seconds of generation of a video, by cell."""
    if "generate_s" not in videos.numeric:
        return [None] * len(videos.cells)
    (median,), _ = quantiles(by_cell(videos, videos.values("generate_s")), len(videos.cells), (0.5,))
    return [float(v) if np.isfinite(v) else None for v in median]


def _cards(analysis: Analysis) -> list[Card]:
    by_name = {metric.name: metric for metric in analysis.metrics}
    canvas, room = Canvas(), MOST_SQUARES
    found = []
    for name in sentences.ordered(analysis):
        maps = []
        wanted = [h for h in analysis.heatmaps if h.metric == name]
        span = heat_span(wanted)
        for heatmap in wanted:
            size = sum(len(row) for row in heatmap.centers)
            table = heat_table(heatmap, analysis.axes, by_name[name], span) if size <= room else None
            if table is not None:
                room -= size
                maps.append(table)
        found.append(_card(analysis, by_name[name], canvas, maps, len(maps) < len(wanted)))
    return found


def _card(analysis: Analysis, metric: Metric, canvas: Canvas, maps: list[HeatTable], is_short: bool) -> Card:
    drawn = [canvas.svg(one) for one in draw_curves(analysis, metric, canvas)]
    better = {"high": "higher is better", "low": "lower is better", None: ""}[metric.better]
    unit = metric.unit or metric.scale or ("fraction of clips" if metric.is_flag else "")
    told = tuple(sentences.of_metric(analysis, metric.name))
    num_shown = max((len(shown) for _, shown in _curves(analysis, metric)), default=0)
    curves = tuple(Markup(svg) for svg in drawn)
    return Card(
        name=metric.name,
        title=metric.title,
        unit=unit,
        meaning=meaning(metric.name),
        better=better,
        sentences=told,
        curves=curves,
        heatmaps=tuple(maps),
        num_shown=num_shown,
        has_missing_heatmaps=is_short,
        has_intervals=any(p.low is not None for curve, _ in _curves(analysis, metric) for p in curve.points),
    )


def draw_curves(analysis: Analysis, metric: Metric, canvas: Canvas) -> Iterator[Drawn]:
    """Draw a metric's curve over each axis, all on the same scale; what is yielded is on the canvas until the next."""
    axes = {axis.name: axis for axis in analysis.axes}
    found = _curves(analysis, metric)
    span = span_of([curve for curve, _ in found], [shown for _, shown in found])
    for curve, shown in found:
        yield draw_curve(canvas, curve, axes[curve.axis], metric, shown, span)


def _curves(analysis: Analysis, metric: Metric) -> list[tuple[Curve, list[list[float]]]]:
    """Return a metric's curves that have points, with single pictures."""
    known = [c for c in analysis.curves if c.metric == metric.name and any(p.center is not None for p in c.points)]
    return [(c, [] if metric.is_flag else single_pictures(analysis, metric.name, c.axis)) for c in known]


def single_pictures(analysis: Analysis, metric: str, axis: str) -> list[list[float]]:
    """Return single pictures' means at each step of an axis, evenly some of many.

    None of a grid with holes, where plain means would compare steps at different settings of the other axes, and of a
    whole grid those pictures that have every cell.
    """
    table = analysis.cell_table
    column = table.axes.index(axis)
    steps = next(a.values for a in analysis.axes if a.name == axis)
    is_whole = len(table.cells) == math.prod(len(a.values) for a in analysis.axes)
    if isinstance(steps[0], str) or not table.by_picture.get(metric) or not is_whole:
        return []
    values = np.array(table.by_picture[metric], np.float64)  # (pictures, cells)
    values = values[np.isfinite(values).all(axis=1)]
    place = {value: i for i, value in enumerate(steps)}
    share = np.zeros((len(table.cells), len(steps)))
    for cell, at in enumerate(table.cells):
        share[cell, place[at[column]]] = 1.0
    if len(values) < 2:
        return []
    means = values @ (share / share.sum(axis=0))
    most = max(2, min(MOST_PICTURES, _MOST_VALUES // len(steps)))
    some = np.unique(np.linspace(0, len(means) - 1, min(most, len(means))).round().astype(int))
    return [[float(v) for v in row] for row in means[some]]


def _flags(analysis: Analysis) -> list[str]:
    found = [f for f in analysis.flagged if f.num_flagged and f.metric in ("is_frozen", "is_broken")]
    words = {"is_frozen": "frozen", "is_broken": "broken"}
    return [
        f"{f.num_flagged} of {f.num_known} clips {'is' if f.num_flagged == 1 else 'are'} {words[f.metric]}"
        for f in found
    ]


def _single(analysis: Analysis) -> list[tuple[str, str, str]]:
    """Return (metric, median, tenth to ninetieth percentile) of each metric where there is one cell alone."""
    by_name = {metric.name: metric for metric in analysis.metrics}
    rows = []
    for figure in analysis.cell_table.figures:
        known = [(m, a, b) for m, a, b in zip(figure.medians, figure.lows, figure.highs, strict=True)]
        for median, low, high in itertools.islice(known, 1):
            if median is not None and low is not None and high is not None:
                step = (high - low) / 5 or None
                spread = f"{wording.number(low, step)} to {wording.number(high, step)}" if high > low else ""
                rows.append((metric_label(by_name[figure.metric]), wording.number(median, step), spread))
    return rows
