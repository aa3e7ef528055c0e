"""Heatmaps as tables with figures in coloured cells: what a reader of figures, of colours or of neither can use.

Colours are steps of cividis, which looks the same to nearly all kinds of colour vision and grows evenly lighter. The
page allows no style attributes, so each step is a class of static/answer.css, the same in light and dark, with black
or white figures, whichever stand out more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svd_batch.analysis import wording
from svd_batch.analysis.axes import Axis
from svd_batch.analysis.effects import Heatmap
from svd_batch.analysis.names import Metric
from svd_batch.records import CellValue
from svd_batch.report.svg import cell_json

NUM_COLOURS = 24
MOST_TOLD = 400
"""A table of more cells leaves out what each says when it is pointed at; its rows and columns have names anyway."""
MOST_CELLS = 2500
"""More are no table any more."""


@dataclass(frozen=True)
class Square:
    """One cell of a heatmap."""

    text: str
    colour: int | None
    """Step of the scale; None where there is no clip."""
    title: str
    link: str
    """What `data-cell` has."""


@dataclass(frozen=True)
class HeatTable:
    """One heatmap as the page shows it; rows are steps of `down`."""

    across: str
    down: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Square, ...]], ...]
    low: str
    high: str
    """The ends of the scale."""
    is_dense: bool


def heat_span(found: Sequence[Heatmap]) -> tuple[float, float]:
    """Return the ends of the scale of some heatmaps, so that a small effect looks small beside a large one."""
    known = [c for heatmap in found for row in heatmap.centers for c in row if c is not None]
    return min(known, default=0.0), max(known, default=0.0)


def heat_table(
    found: Heatmap, axes: Sequence[Axis], metric: Metric, span: tuple[float, float] | None = None
) -> HeatTable | None:
    """Return a heatmap's table; None where it has no values, or more cells than a table can have.

    `span` has the ends of the scale, where other heatmaps share it.
    """
    by_name = {axis.name: axis for axis in axes}
    across, down = by_name[found.x], by_name[found.y]
    has_values = any(c is not None for row in found.centers for c in row)
    num_cells = len(across.values) * len(down.values)
    if not has_values or num_cells > MOST_CELLS:
        return None
    low, high = span or heat_span([found])
    step = (high - low) / 4
    columns = tuple(wording.shown(value, across) for value in across.values)
    rows = []
    for value, centers, counts in zip(down.values, found.centers, found.num_pictures, strict=True):
        squares = []
        for column, center, count in zip(across.values, centers, counts, strict=True):
            place = {found.x: column, found.y: value}
            told = _title(place, by_name, center, metric, count, step) if num_cells <= MOST_TOLD else ""
            text = "" if center is None else wording.number(center, step)
            squares.append(Square(text, colour(center, low, high), told, cell_json(place) if told else ""))
        rows.append((wording.shown(value, down), tuple(squares)))
    ends = (wording.number(low, step), wording.number(high, step))
    return HeatTable(found.x, found.y, columns, tuple(rows), *ends, len(columns) > 12)


def colour(value: float | None, low: float, high: float) -> int | None:
    """Return a value's step of the scale; the middle one where all values are alike."""
    if value is None:
        return None
    if high <= low:
        return NUM_COLOURS // 2
    return min(int((value - low) / (high - low) * NUM_COLOURS), NUM_COLOURS - 1)


def _title(
    place: dict[str, CellValue], axes: dict[str, Axis], center: float | None, metric: Metric, count: int, step: float
) -> str:
    where = ", ".join(f"{name} {wording.shown(value, axes[name])}" for name, value in place.items())
    if center is None:
        return f"{where}: no clip"
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    return f"{where}: {wording.with_unit(wording.number(center, step), metric)}, {pictures}"
