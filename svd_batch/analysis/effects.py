"""What each axis does to each metric: response curves, heatmaps, monotonicity, and how pictures differ in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from svd_batch.analysis.axes import Axis
from svd_batch.analysis.bootstrap import Estimate, estimate
from svd_batch.analysis.names import describe
from svd_batch.analysis.rows import Rows
from svd_batch.analysis.videos import Values
from svd_batch.records import CellValue

NUM_LISTED = 10


@dataclass(frozen=True)
class Point:
    """One step of a response curve."""

    value: CellValue
    center: float | None
    """The median over pictures; the mean for flags."""
    low: float | None
    high: float | None
    num_pictures: int
    num_videos: int


@dataclass(frozen=True)
class Curve:
    """One metric over one axis; replicates and the other axes are averaged out, picture by picture."""

    metric: str
    axis: str
    statistic: str
    """median, or mean for flags."""
    points: tuple[Point, ...]
    is_matched: bool
    """Every point is over the same pictures."""
    num_left_out: int
    """Pictures left out so that every point is over the same ones: some of their steps are missing."""
    is_confounded: bool
    """Some steps were never made at the same settings of the other axes, so the curve shows those too."""


@dataclass(frozen=True)
class Heatmap:
    """One metric over two axes; rows are steps of `y`, columns steps of `x`; None where there is no clip."""

    metric: str
    x: str
    y: str
    statistic: str
    centers: tuple[tuple[float | None, ...], ...]
    num_pictures: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Monotonicity:
    """How steadily a metric follows an axis: Spearman's rank correlation within each picture, median over pictures."""

    metric: str
    axis: str
    rho: float | None
    low: float | None
    high: float | None
    num_pictures: int
    """Pictures with three steps at least, and not the same value at all of them."""
    num_rising: int
    """Pictures with a higher value at their last step than at their first."""
    num_falling: int


@dataclass(frozen=True)
class PictureChange:
    """What an axis does to one picture."""

    image_id: str
    change: float
    """Value at the picture's last step less that at its first."""
    range: float
    """Largest less smallest value over its steps."""
    slope: float | None
    """Least-squares slope per unit of the axis; None for words."""


@dataclass(frozen=True)
class Sensitivity:
    """How much an axis moves a metric, picture by picture."""

    metric: str
    axis: str
    num_pictures: int
    """Pictures with two steps at least."""
    range_quantiles: tuple[float, float, float, float, float] | None
    """Smallest, lower quartile, median, upper quartile, largest range over pictures."""
    most: tuple[PictureChange, ...]
    least: tuple[PictureChange, ...]


@dataclass(frozen=True, eq=False)
class Response:
    """A metric's mean for each picture and step of an axis; what all figures of one axis come from."""

    metric: str
    axis: Axis
    matrix: Values
    """(pictures, steps), NaN where a picture has no clip at a step."""
    num_videos: tuple[int, ...]
    is_confounded: bool
    is_flag: bool
    compared: Values = field(repr=False)
    """The rows of `matrix` that the curve is over."""
    is_matched: bool


def response(metric: str, axes: list[Axis], index: int, rows: Rows, values: Values) -> Response:
    """Return the response of a metric to axis `index`; `values` has one value a row."""
    axis = axes[index]
    design = rows.design((index,), len(axis.values))
    matrix = design.dense(design.means(values))
    present = np.isfinite(matrix)
    has_any, has_all = present.any(axis=1), present.all(axis=1)
    is_matched = 2 * int(has_all.sum()) >= int(has_any.sum())
    counts = np.bincount(rows.levels[index][rows.row], minlength=len(axis.values))
    return Response(
        metric,
        axis,
        matrix,
        tuple(int(n) for n in counts),
        design.is_confounded,
        describe(metric).is_flag,
        matrix[has_all] if is_matched else matrix[has_any],
        is_matched,
    )


def curve(found: Response) -> Curve:
    """Return the response curve."""
    estimates = [estimate(column, is_mean=found.is_flag) for column in found.compared.T]
    points = (
        Point(value, e.value, e.low, e.high, e.num_pictures, count)
        for value, e, count in zip(found.axis.values, estimates, found.num_videos, strict=True)
    )
    left_out = int(np.isfinite(found.matrix).any(axis=1).sum()) - len(found.compared)
    statistic = "mean" if found.is_flag else "median"
    return Curve(
        found.metric, found.axis.name, statistic, tuple(points), found.is_matched, left_out, found.is_confounded
    )


def heatmap(metric: str, axes: list[Axis], pair: tuple[int, int], rows: Rows, values: Values) -> Heatmap:
    """Return the heatmap over a pair of axes, the first one across."""
    across, down = axes[pair[0]], axes[pair[1]]
    num_steps = len(across.values) * len(down.values)
    design = rows.design((pair[1], pair[0]), num_steps)
    means = design.means(values)
    is_flag = describe(metric).is_flag
    order = np.lexsort((means, design.level))  # within each step by value, NaN last
    level, means = design.level[order], means[order]
    count = np.bincount(level[np.isfinite(means)], minlength=num_steps)
    start = np.searchsorted(level, np.arange(num_steps))
    if is_flag:
        total = np.bincount(level, np.nan_to_num(means), num_steps)
        centers = total / np.maximum(count, 1)
    else:
        last = max(len(means) - 1, 0)
        lower = np.minimum(start + np.maximum(count - 1, 0) // 2, last)
        upper = np.minimum(start + count // 2, last)
        centers = (means[lower] + means[upper]) / 2
    listed = [float(c) if n else None for c, n in zip(centers, count, strict=True)]
    width = len(across.values)
    return Heatmap(
        metric,
        across.name,
        down.name,
        "mean" if is_flag else "median",
        tuple(tuple(listed[i : i + width]) for i in range(0, num_steps, width)),
        tuple(tuple(int(n) for n in count[i : i + width]) for i in range(0, num_steps, width)),
    )


def monotonicity(found: Response) -> Monotonicity | None:
    """Return how steadily the metric follows the axis; None for an axis of words."""
    if not found.axis.is_ordered:
        return None
    change = changes(found)[0]
    rho: Estimate = estimate(spearman(found.matrix))
    return Monotonicity(
        found.metric,
        found.axis.name,
        rho.value,
        rho.low,
        rho.high,
        rho.num_pictures,
        int((change > 0).sum()),
        int((change < 0).sum()),
    )


def spearman(matrix: Values) -> Values:
    """Return each row's rank correlation with its places, ties by mean ranks; NaN for fewer than 3 or all alike."""
    rho = np.full(len(matrix), np.nan)
    chunk = max(1, 4_000_000 // max(1, matrix.shape[1] ** 2))
    for at in range(0, len(matrix), chunk):
        y = matrix[at : at + chunk]
        known = np.isfinite(y)
        count = known.sum(axis=1)
        pairs = known[:, :, None] & known[:, None, :]  # (rows, steps, steps)
        less = (pairs & (y[:, None, :] < y[:, :, None])).sum(axis=2)
        same = (pairs & (y[:, None, :] == y[:, :, None])).sum(axis=2)
        rank = np.where(known, less + (same + 1) / 2, 0.0)
        place = np.where(known, np.cumsum(known, axis=1), 0.0)
        middle = ((count + 1) / 2)[:, None] * known
        a, b = rank - middle, place - middle
        norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        defined = (count >= 3) & (norm > 0)
        rho[at : at + chunk][defined] = ((a * b).sum(axis=1)[defined] / norm[defined]).clip(-1, 1)
    return rho


def changes(found: Response) -> tuple[Values, Values, Values]:
    """Return (last less first, range, slope) of each picture; NaN with fewer than two steps."""
    y = found.matrix
    known = np.isfinite(y)
    num_steps = known.sum(axis=1)
    enough = num_steps >= 2
    first = np.argmax(known, axis=1)
    last = y.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
    row = np.arange(len(y))
    change = np.where(enough, y[row, last] - y[row, first], np.nan)
    high = np.where(known, y, -np.inf).max(axis=1, initial=-np.inf)
    low = np.where(known, y, np.inf).min(axis=1, initial=np.inf)
    spread = np.subtract(high, low, out=np.full(len(y), np.nan), where=enough)
    if not found.axis.is_ordered:
        return change, spread, np.full(len(y), np.nan)
    x = np.where(known, np.asarray(found.axis.values, np.float64), 0.0)
    x = np.where(known, x - (x.sum(axis=1) / np.maximum(num_steps, 1))[:, None], 0.0)
    power = (x * x).sum(axis=1)
    slope = np.divide((x * np.nan_to_num(y)).sum(axis=1), power, out=np.full(len(y), np.nan), where=power > 0)
    return change, spread, slope


def sensitivity(found: Response, images: tuple[str, ...], num_listed: int = NUM_LISTED) -> Sensitivity:
    """Return how pictures differ in what the axis does to them; the most and the least sensitive are listed."""
    change, spread, slope = changes(found)
    known = np.flatnonzero(np.isfinite(spread))
    order = known[np.argsort(-spread[known], kind="stable")]

    def picture(i: int) -> PictureChange:
        has_slope = bool(np.isfinite(slope[i]))
        return PictureChange(images[i], float(change[i]), float(spread[i]), float(slope[i]) if has_slope else None)

    a, b, c, d, e = np.quantile(spread[known], [0, 0.25, 0.5, 0.75, 1]) if len(known) else [np.nan] * 5
    return Sensitivity(
        found.metric,
        found.axis.name,
        len(known),
        (float(a), float(b), float(c), float(d), float(e)) if len(known) else None,
        tuple(picture(i) for i in order[:num_listed]),
        tuple(picture(i) for i in order[::-1][:num_listed]),
    )
