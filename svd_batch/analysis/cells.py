"""Cells side by side: what each gave over the pictures, the Pareto set of two metrics, arrays for a page's slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from svd_batch.analysis.axes import AxisCodes
from svd_batch.analysis.names import Better
from svd_batch.analysis.rows import group_means
from svd_batch.analysis.videos import Codes, Mask, Values, Videos, combine
from svd_batch.records import CellValue

SPREAD = (0.1, 0.9)
"""Quantiles over pictures between which a cell's spread is."""
MOST_SINGLE_VALUES = 200_000
"""More values of single pictures than this are left out of the arrays for a page."""


@dataclass(frozen=True, eq=False)
class ByCell:
    """One metric for each picture and cell, mean over replicates; n rows, in the order of cells."""

    cell: Codes
    image: Codes
    value: Values


@dataclass(frozen=True)
class CellFigures:
    """One metric in every cell, over pictures; None where the cell has no value."""

    metric: str
    medians: tuple[float | None, ...]
    lows: tuple[float | None, ...]
    """The tenth percentile over pictures."""
    highs: tuple[float | None, ...]
    """The ninetieth."""
    num_pictures: tuple[int, ...]


@dataclass(frozen=True)
class CellTable:
    """The compact arrays that a page looks cells up in."""

    axes: tuple[str, ...]
    cells: tuple[tuple[CellValue, ...], ...]
    """The values of the axes, cell by cell; of a grouped axis the group's."""
    num_pictures: tuple[int, ...]
    """Pictures with a video, cell by cell."""
    figures: tuple[CellFigures, ...]
    images: tuple[str, ...]
    by_picture: dict[str, tuple[tuple[float | None, ...], ...]]
    """For each metric pictures times cells, to five digits; empty where that would be more than MOST_SINGLE_VALUES."""


@dataclass(frozen=True)
class ParetoPoint:
    """One cell in the plane of two metrics, medians over pictures."""

    cell: int
    """Index into the cells."""
    x: float
    y: float
    num_pictures: int
    is_best: bool
    """No other cell is better in one metric and at least as good in the other."""


@dataclass(frozen=True)
class Pareto:
    """Every cell by two metrics, and which of them are the best trades."""

    x: str
    y: str
    x_better: Better
    y_better: Better
    points: tuple[ParetoPoint, ...]
    num_pictures: int
    """Pictures that the medians are over, at most."""
    is_matched: bool
    """Every cell is over the same pictures."""


def by_cell(videos: Videos, values: Values) -> ByCell:
    """Return a metric by picture and cell; `values` has one value a video."""
    video = np.flatnonzero(np.isfinite(values))
    row = combine([videos.cell[video], videos.image[video]])
    _, first = np.unique(row, return_index=True)
    some = video[first]
    return ByCell(videos.cell[some], videos.image[some], group_means(row, values[video], len(some)))


def quantiles(found: ByCell, num_cells: int, q: Sequence[float]) -> tuple[list[Values], Codes]:
    """Return (each quantile over pictures by cell, NaN where there is nothing; the number of pictures by cell)."""
    order = np.lexsort((found.value, found.cell))
    cell, value = found.cell[order], found.value[order]
    count = np.bincount(cell, minlength=num_cells)
    start = np.searchsorted(cell, np.arange(num_cells))
    result = []
    for fraction in q:
        at = start + np.maximum(count - 1, 0) * fraction
        lower = np.minimum(np.floor(at).astype(np.int64), max(len(value) - 1, 0))
        upper = np.minimum(np.ceil(at).astype(np.int64), max(len(value) - 1, 0))
        between = value[lower] + (value[upper] - value[lower]) * (at - np.floor(at)) if len(value) else at
        result.append(np.where(count > 0, between, np.nan))
    return result, count


def cell_figures(metric: str, found: ByCell, num_cells: int) -> CellFigures:
    """Return median and spread of a metric in every cell."""
    (low, median, high), count = quantiles(found, num_cells, (SPREAD[0], 0.5, SPREAD[1]))
    return CellFigures(metric, _listed(median), _listed(low), _listed(high), tuple(int(n) for n in count))


def _listed(values: Values) -> tuple[float | None, ...]:
    return tuple(float(v) if np.isfinite(v) else None for v in values)


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def cell_table(videos: Videos, axes: Sequence[AxisCodes], metrics: Sequence[str]) -> CellTable:
    """Return the arrays of some metrics for a page."""
    first = np.unique(videos.cell, return_index=True)[1]
    num_cells, num_images = len(videos.cells), len(videos.images)
    has_room = len(metrics) * num_cells * num_images <= MOST_SINGLE_VALUES
    figures: list[CellFigures] = []
    single: dict[str, tuple[tuple[float | None, ...], ...]] = {}
    for metric in metrics:
        found = by_cell(videos, videos.values(metric))
        figures.append(cell_figures(metric, found, num_cells))
        if has_room:
            matrix = np.full((num_images, num_cells), np.nan)
            matrix[found.image, found.cell] = found.value
            single[metric] = tuple(tuple(_short(v) for v in row) for row in matrix)
    return CellTable(
        tuple(a.axis.name for a in axes),
        tuple(tuple(a.axis.values[a.codes[row]] for a in axes) for row in first),
        tuple(np.bincount(by_cell(videos, np.zeros(len(videos))).cell, minlength=num_cells).tolist()),
        tuple(figures),
        videos.images,
        single,
    )


def pareto(videos: Videos, directions: Mapping[str, Better]) -> Pareto:
    """Return the Pareto set of two metrics over cells; `directions` says of each which way is better.

    Where at least half of the pictures have every cell, the medians are over these alone.
    """
    (x, x_better), (y, y_better) = directions.items()
    a, b = by_cell(videos, videos.values(x)), by_cell(videos, videos.values(y))
    key = len(videos.images)
    _, in_a, in_b = np.intersect1d(a.cell * key + a.image, b.cell * key + b.image, return_indices=True)
    a, b = _some(a, in_a), _some(b, in_b)
    per_image = np.bincount(a.image, minlength=key)
    complete = per_image == len(np.unique(a.cell))
    is_matched = 0 < int((per_image > 0).sum()) <= 2 * int(complete.sum())
    if is_matched:
        kept = complete[a.image]
        a, b = _some(a, kept), _some(b, kept)
    (xs,), count = quantiles(a, len(videos.cells), (0.5,))
    (ys,), _ = quantiles(b, len(videos.cells), (0.5,))
    there = np.flatnonzero(count)
    best = set(there[_best(_goodness(xs[there], x_better), _goodness(ys[there], y_better))].tolist())
    points = (ParetoPoint(int(c), float(xs[c]), float(ys[c]), int(count[c]), int(c) in best) for c in there)
    return Pareto(x, y, x_better, y_better, tuple(points), int(count.max(initial=0)), is_matched)


def _some(found: ByCell, rows: Codes | Mask) -> ByCell:
    return ByCell(found.cell[rows], found.image[rows], found.value[rows])


def _goodness(values: Values, better: Better) -> Values:
    return values if better == "high" else -values


def _best(x: Values, y: Values) -> Codes:
    """Return which points no other dominates, more being better in both; equal points are kept together."""
    order = np.lexsort((-y, -x))
    kept: list[int] = []
    highest, highest_x = -np.inf, np.inf
    for i in order:
        if y[i] > highest or (y[i] == highest and x[i] == highest_x):
            highest, highest_x = float(y[i]), float(x[i])
            kept.append(int(i))
    return np.asarray(kept, np.int64)
