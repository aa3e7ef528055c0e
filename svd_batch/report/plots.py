"""The figures of the report: response curves, cells in the plane of two metrics, heatmaps for files.

Each function draws on a canvas and returns what it drew; the figure is on the canvas until the next one is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svd_batch.analysis import wording
from svd_batch.analysis.axes import Axis
from svd_batch.analysis.effects import Curve, Heatmap, Point
from svd_batch.analysis.names import Metric
from svd_batch.report.canvas import (
    FONT_PX,
    Canvas,
    Drawn,
    name_steps,
    set_range,
    set_ticks,
    settings,
    shortened,
    write_around,
)
from svd_batch.report.svg import COLOURS, Dot

SIZE = (360, 236)
"""Of a response curve in px; several of them stand side by side, or one below the other on a phone."""
WIDE = (440, 350)
"""Of cells in a plane."""
MAP = (440, 330)
"""Of a heatmap in a file."""
_FRONT = {"zorder": 4, "clip_on": False}
_CROWDED = 16
"""From so many steps on, points are small."""


def metric_label(metric: Metric) -> str:
    """Return a metric with its unit, as it stands at an axis."""
    if metric.is_flag:
        return f"{metric.title}, fraction of clips"
    unit = metric.unit or metric.scale
    return metric.title + (f", {unit}" if unit else "")


def draw_curve(
    canvas: Canvas,
    curve: Curve,
    axis: Axis,
    metric: Metric,
    pictures: Sequence[Sequence[float]] = (),
    span: tuple[float, float] | None = None,
) -> Drawn:
    """Draw a response curve with its intervals.

    `pictures` has single pictures' values at all steps; `span` is what the scale has to hold (`span_of`).
    """
    with settings():
        axes = canvas.axes(SIZE)
        at = [float(v) for v in axis.values] if axis.is_ordered else list(range(len(axis.values)))
        known = [(x, p) for x, p in zip(at, curve.points, strict=True) if p.center is not None]
        set_range(axes, "y", span or span_of([curve], [pictures]), 0.08)
        set_range(axes, "x", list(at), 0.05 if axis.is_ordered else 0.25)
        set_ticks(axes, "y", 5)
        if axis.is_ordered:
            _band(axes, known, pictures, at)
        else:
            _bars(axes, known)
        style = {
            "color": COLOURS["accent"],
            "marker": "o",
            "markersize": 6 if len(at) < _CROWDED else 3.5,
            "mec": COLOURS["paper"],
        }
        joined = 1.8 if axis.is_ordered else 0.0
        axes.plot([x for x, _ in known], [p.center for _, p in known], gid="dots", lw=joined, **style, **_FRONT)
        name_steps(axes, at, [wording.shown(v, axis) for v in axis.values])
        write_around(axes, SIZE, metric_label(metric), axis.name, _counted(curve))
    centers = [p.center for _, p in known if p.center is not None]
    step = (max(centers, default=0.0) - min(centers, default=0.0)) / 5
    radius = 3.2 if len(at) < _CROWDED else 2.0
    dots = [Dot(said(p, axis, metric, curve.statistic, step), {axis.name: p.value}, radius) for _, p in known]
    label = f"{metric_label(metric)} over {axis.name}: " + "; ".join(dot.text for dot in dots[:12])
    return Drawn(f"{metric.name}-by-{axis.name}", label, SIZE, {"dots": dots})


def said(point: Point, axis: Axis, metric: Metric, statistic: str, step: float) -> str:
    """Return what a point of a curve says when it is pointed at, with digits that tell values `step` apart."""
    assert point.center is not None
    text = f"{axis.name} {wording.shown(point.value, axis)}: {statistic} {wording.number(point.center, step)}"
    text = wording.with_unit(text, metric)
    if point.low is not None and point.high is not None:
        text += f", 95 % interval {wording.number(point.low, step)} to {wording.number(point.high, step)}"
    pictures = "1 picture" if point.num_pictures == 1 else f"{point.num_pictures} pictures"
    return f"{text}, {pictures}"


def span_of(curves: Sequence[Curve], pictures: Sequence[Sequence[Sequence[float]]]) -> tuple[float, float]:
    """Return the scale of a metric's curves, the same for all, so that a small effect looks small.

    It holds the intervals, and four fifths of the single pictures where that leaves the curves a third of the height.
    """
    values = [v for curve in curves for p in curve.points for v in (p.center, p.low, p.high) if v is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    inner = sorted(v for some in pictures for line in some for v in line)
    if len(inner) < 2:
        return low, high
    tenth, room = len(inner) // 10, high - low
    return max(min(low, inner[tenth]), low - room), min(max(high, inner[-1 - tenth]), high + room)


def _band(
    axes: Any, known: Sequence[tuple[float, Point]], pictures: Sequence[Sequence[float]], at: Sequence[float]
) -> None:
    from matplotlib.patches import Polygon

    if pictures:
        xs = [x for _ in pictures for x in (*at, float("nan"))]
        ys = [y for line in pictures for y in (*line, float("nan"))]
        axes.plot(xs, ys, gid="pictures", lw=0.8, color=COLOURS["faint"], alpha=0.55, zorder=2)
    sure = [(x, p.low, p.high) for x, p in known if p.low is not None]
    if len(sure) > 1:
        x, low, high = zip(*sure, strict=True)
        outline = [*zip(x, low, strict=True), *zip(reversed(x), reversed(high), strict=True)]
        band = Polygon(outline, gid="band", color=COLOURS["accent"], alpha=0.2, lw=0, zorder=3)
        axes.add_patch(band).set_clip_on(False)


def _bars(axes: Any, known: Sequence[tuple[float, Point]]) -> None:
    for x, point in known:
        if point.low is not None:
            axes.plot([x, x], [point.low, point.high], lw=7, color=COLOURS["accent"], alpha=0.25, clip_on=False)


def _counted(curve: Curve) -> str:
    counts = sorted({p.num_pictures for p in curve.points if p.center is not None})
    if not counts:
        return "no values"
    if counts == [1]:
        return "1 picture"
    return f"{counts[0]} pictures" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} pictures"


@dataclass(frozen=True)
class Spot:
    """One cell in the plane of two metrics."""

    x: float
    y: float
    name: str
    text: str
    is_best: bool
    cell: Mapping[str, Any] | None = None


def draw_scatter(canvas: Canvas, name: str, label: str, named: tuple[str, str, str], spots: Sequence[Spot]) -> Drawn:
    """Draw cells in the plane of two metrics, the best trades joined and named.

    `named` has what stands at x, at y, and what the labels of the cells mean.
    """
    with settings():
        axes = canvas.axes(WIDE)
        front = sorted((s for s in spots if s.is_best), key=lambda s: (s.x, -s.y))
        rest = [s for s in spots if not s.is_best]
        set_range(axes, "x", [s.x for s in spots], 0.1)
        set_range(axes, "y", [s.y for s in spots], 0.1)
        axes.plot(
            [s.x for s in front],
            [s.y for s in front],
            gid="front-line",
            lw=1.2,
            color=COLOURS["warm"],
            ls=":",
            clip_on=False,
        )
        for gid, some, colour in (("rest", rest, "accent"), ("front", front, "warm")):
            style = {
                "marker": "o",
                "mec": COLOURS["paper"],
                "color": COLOURS[colour],
                "ms": 6 if some is rest else 9,
            }
            if some:
                axes.plot([s.x for s in some], [s.y for s in some], gid=gid, lw=0, **style, **_FRONT)
        _name_spots(axes, [*front, *rest])
        set_ticks(axes, "x", 6)
        write_around(axes, WIDE, named[1], named[0], named[2])
    dots = {
        gid: [Dot(s.text, s.cell, radius) for s in some]
        for gid, some, radius in (("rest", rest, 3.2), ("front", front, 4.8))
        if some
    }
    return Drawn(name, label, WIDE, dots)


def _name_spots(axes: Any, spots: Sequence[Spot]) -> None:
    """Name cells beside their points, those that come first first, as long as no name covers another or a point."""
    box = axes.get_window_extent()
    points = [tuple(axes.transData.transform((s.x, s.y))) for s in spots]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    high = FONT_PX + 1
    for spot, (x, y) in zip(spots, points, strict=True):
        wide = 0.62 * FONT_PX * len(spot.name) + 2
        places = [("left", x + 7, y + 3), ("right", x - 7, y + 3), ("left", x + 7, y - 3 - high)]
        places += [("right", x - 7, y - 3 - high), ("center", x, y + 7), ("center", x, y - 7 - high)]
        for side, at, bottom in places:
            left = at - {"left": 0.0, "center": wide / 2, "right": wide}[side]
            mine = (left, bottom, left + wide, bottom + high)
            is_inside = box.x0 - 30 <= left and mine[2] <= box.x1 + 12 and box.y0 <= bottom and mine[3] <= box.y1 + 6
            if is_inside and not any(_overlap(mine, other) for other in taken):
                taken.append(mine)
                place = axes.transData.inverted().transform((at, bottom + 2))
                style = {"ha": side, "va": "bottom", "color": COLOURS["ink" if spot.is_best else "soft"]}
                axes.text(*place, spot.name, fontsize=FONT_PX - 1, zorder=5, **style)
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw_heatmap(
    canvas: Canvas, found: Heatmap, axes_of: tuple[Axis, Axis], metric: Metric, span: tuple[float, float]
) -> Drawn:
    """Draw a heatmap for a file, with figures in its cells where there is room; `axes_of` are across and down."""
    across, down = axes_of
    width, height = len(across.values), len(down.values)
    with settings():
        axes = canvas.axes(MAP)
        axes.grid(visible=False)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        values = [[float("nan") if c is None else c for c in row] for row in found.centers]
        ends = {"vmin": span[0], "vmax": span[1] if span[1] > span[0] else span[0] + 1}
        image = axes.imshow(values, cmap="cividis", aspect="auto", interpolation="nearest", **ends)
        if width <= 12 and height <= 16:
            for y, row in enumerate(found.centers):
                for x, center in enumerate(row):
                    _figure_in_cell(axes, x, y, center, span, image)
        name_steps(axes, list(range(width)), [wording.shown(v, across) for v in across.values])
        every = -(-height // 20)
        places = range(0, height, every)
        axes.set_yticks(list(places), [shortened(wording.shown(down.values[i], down), 6) for i in places])
        write_around(axes, MAP, f"{metric_label(metric)}; {down.name} down", across.name, _ends(span))
    return Drawn(f"{metric.name}-by-{across.name}-and-{down.name}", metric_label(metric), MAP)


def _ends(span: tuple[float, float]) -> str:
    step = (span[1] - span[0]) / 4 or None
    return f"blue {wording.number(span[0], step)}, yellow {wording.number(span[1], step)}"


def _figure_in_cell(axes: Any, x: int, y: int, center: float | None, span: tuple[float, float], image: Any) -> None:
    if center is None:
        return
    red, green, blue, _ = image.cmap(image.norm(center))
    is_dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18
    text = wording.number(center, (span[1] - span[0]) / 4 or None)
    axes.text(x, y, text, ha="center", va="center", fontsize=FONT_PX - 1.5, color="white" if is_dark else "black")
