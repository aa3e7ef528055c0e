"""Motion against likeness: the cells that no other beats in both, and what each of them gives and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svd_batch.analysis import Analysis, describe, wording
from svd_batch.analysis.axes import Axis
from svd_batch.analysis.cells import ParetoPoint
from svd_batch.records import CellValue
from svd_batch.report.canvas import Canvas, Drawn
from svd_batch.report.plots import Spot, draw_scatter, metric_label
from svd_batch.report.svg import cell_json

_ALSO = ("flicker",)
"""What stands beside motion and likeness in the table, where it was measured."""


@dataclass(frozen=True)
class Front:
    """The table of the best trades, from the least motion to the most."""

    axes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...]
    """For each cell its values of the axes, its figures, and what `data-cell` has."""
    num_cells: int
    num_pictures: int
    is_matched: bool


def front(analysis: Analysis, seconds: Sequence[float | None] | None = None) -> Front | None:
    """Return the table; None where motion or likeness is missing, or there is one cell alone.

    `seconds` is what a video took, by cell.
    """
    pareto = analysis.pareto
    if pareto is None or len(pareto.points) < 2:
        return None
    best = sorted((p for p in pareto.points if p.is_best), key=lambda p: (p.x, -p.y))
    titles = {name: metric_label(describe(name)) for name in (pareto.x, pareto.y, *_ALSO)}
    figures = {f.metric: f.medians for f in analysis.cell_table.figures if f.metric in _ALSO}
    also: dict[str, Sequence[float | None]] = {titles[name]: figures[name] for name in _ALSO if name in figures}
    if seconds is not None:
        also["s a video"] = seconds
    columns = (titles[pareto.x], titles[pareto.y], "likeness given up", *also)
    rows = tuple(_row(analysis, point, best, also) for point in best)
    axes = tuple(axis.name for axis in analysis.axes)
    return Front(axes, columns, rows, len(pareto.points), pareto.num_pictures, pareto.is_matched)


def _row(
    analysis: Analysis, point: ParetoPoint, best: Sequence[ParetoPoint], also: dict[str, Sequence[float | None]]
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    xs, ys = [p.x for p in best], [p.y for p in best]
    most = max(ys)
    figures = [
        wording.number(point.x, _step(xs)),
        wording.number(point.y, _step(ys)),
        "" if point.y == most else wording.number(most - point.y, _step(ys)),
    ]
    for values in also.values():
        known = [v for p in best if (v := values[p.cell]) is not None]
        value = values[point.cell]
        figures.append("" if value is None else wording.number(value, _step(known)))
    return _names(analysis, point.cell), tuple(figures), cell_json(_cell(analysis, point.cell))


def _step(values: Sequence[float]) -> float | None:
    return (max(values) - min(values)) / 5 or None


def _cell(analysis: Analysis, cell: int) -> dict[str, CellValue]:
    table = analysis.cell_table
    return dict(zip(table.axes, table.cells[cell], strict=True))


def _names(analysis: Analysis, cell: int) -> tuple[str, ...]:
    values = _cell(analysis, cell)
    return tuple(_shown(values[axis.name], axis) for axis in analysis.axes)


def _shown(value: CellValue, axis: Axis) -> str:
    return wording.shown(value, axis)


def draw_front(analysis: Analysis, canvas: Canvas) -> Drawn | None:
    """Draw all cells in the plane of motion and likeness; None where `front` is None."""
    pareto = analysis.pareto
    if pareto is None or len(pareto.points) < 2:
        return None
    x, y = describe(pareto.x), describe(pareto.y)
    axes = " · ".join(axis.name for axis in analysis.axes)
    spots = []
    for point in pareto.points:
        names = _names(analysis, point.cell)
        where = ", ".join(f"{axis.name} {name}" for axis, name in zip(analysis.axes, names, strict=True))
        figures = f"{wording.with_unit(wording.number(point.x), x)}, {y.title} {wording.number(point.y)}"
        text = f"{where}: {x.title} {figures}, {point.num_pictures} pictures"
        spots.append(Spot(point.x, point.y, " · ".join(names), text, point.is_best, _cell(analysis, point.cell)))
    label = f"{metric_label(y)} against {metric_label(x)}, {len(spots)} cells"
    return draw_scatter(canvas, "motion-against-likeness", label, (metric_label(x), metric_label(y), axes), spots)
