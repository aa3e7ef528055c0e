"""Figures by matplotlib: response curves and the plane of motion against likeness, for the page and for files.

matplotlib, since one well-kept library serves the inline SVG of a page that runs no script for it, report.md and papers
alike. A figure takes long to build and little to draw again, so a Plotter keeps one for each size. Nothing here is
global: no pyplot, settings hold while something is drawn, and the same figures give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd_batch.analysis import wording
from svd_batch.analysis.axes import Axis
from svd_batch.analysis.effects import Curve, Point
from svd_batch.analysis.names import Metric
from svd_batch.report.svg import COLOURS, GROUND, Dot, inline

SIZE = (360, 236)
"""Of a response curve in px; several of them stand side by side, or one below the other on a phone."""
WIDE = (440, 350)
FONT_PX = 11.0
PNG_DPI = 216
"""Three dots a px: sharp in a README on a fine screen, and 9 cm wide in print at 300 dpi."""
_MARGINS = (44, 16, 30, 42)
"""Left, right, top, bottom in px."""
_FRONT = {"zorder": 4, "clip_on": False}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "svd_batch",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT_PX,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Drawn:
    """What a figure on the canvas is called, says and holds."""

    name: str
    """Unique among the figures of an analysis."""
    label: str
    size: tuple[int, int]
    dots: Mapping[str, Sequence[Dot]] = field(default_factory=dict)


def metric_label(metric: Metric) -> str:
    """Return a metric with its unit, as it stands at an axis."""
    if metric.is_flag:
        return f"{metric.title}, fraction of clips"
    unit = metric.unit or metric.scale
    return metric.title + (f", {unit}" if unit else "")


def shortened(text: str, length: int) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= length else text[: max(length - 1, 1)] + "…"


class Plotter:
    """Draws one figure after the other; what was drawn last is what `svg` and `save` give."""

    def __init__(self) -> None:
        self._axes: dict[tuple[int, int], Any] = {}

    # --- what is drawn ------------------------------------------------------------------------------------

    def curve(self, curve: Curve, axis: Axis, metric: Metric, pictures: Sequence[Sequence[float]] = ()) -> Drawn:
        """Draw a response curve with its intervals; `pictures` has single pictures' values at all steps."""
        with _settings():
            axes = self._clean(SIZE)
            at = [float(v) for v in axis.values] if axis.is_ordered else list(range(len(axis.values)))
            known = [(x, p) for x, p in zip(at, curve.points, strict=True) if p.center is not None]
            self._limits(axes, at, curve, pictures)
            if axis.is_ordered:
                _band(axes, known, pictures, at)
            else:
                _bars(axes, known)
            style = {"color": COLOURS["accent"], "marker": "o", "markersize": 6, "markeredgecolor": COLOURS["paper"]}
            joined = 1.8 if axis.is_ordered else 0.0
            axes.plot([x for x, _ in known], [p.center for _, p in known], gid="dots", lw=joined, **style, **_FRONT)
            _x_ticks(axes, at, [wording.shown(v, axis) for v in axis.values])
            _words(axes, SIZE, metric_label(metric), axis.name, _counted(curve))
        centers = [p.center for _, p in known if p.center is not None]
        step = (max(centers, default=0.0) - min(centers, default=0.0)) / 5
        dots = [Dot(said(p, axis, metric, curve.statistic, step), {axis.name: p.value}) for _, p in known]
        label = f"{metric_label(metric)} over {axis.name}: " + "; ".join(dot.text for dot in dots[:12])
        return Drawn(f"{metric.name}-by-{axis.name}", label, SIZE, {"dots": dots})

    def scatter(self, name: str, label: str, named: tuple[str, str, str], spots: Sequence[Spot]) -> Drawn:
        """Draw cells in the plane of two metrics, the best trades joined and named.

        `named` has what stands at x, at y, and what the labels of the cells mean.
        """
        with _settings():
            axes = self._clean(WIDE)
            front = sorted((s for s in spots if s.is_best), key=lambda s: (s.x, -s.y))
            rest = [s for s in spots if not s.is_best]
            _range(axes, "x", [s.x for s in spots], 0.1)
            _range(axes, "y", [s.y for s in spots], 0.1)
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
            _ticks(axes, "x", 6)
            _words(axes, WIDE, named[1], named[0], named[2])
        dots = {
            gid: [Dot(s.text, s.cell, radius) for s in some]
            for gid, some, radius in (("rest", rest, 3.2), ("front", front, 4.8))
            if some
        }
        return Drawn(name, label, WIDE, dots)

    # --- what comes of it ---------------------------------------------------------------------------------

    def svg(self, drawn: Drawn) -> str:
        """Return the figure as inline SVG for the page."""
        return inline(self._svg(drawn).decode(), drawn.name, drawn.label, drawn.dots)

    def save(self, drawn: Drawn, path: Path) -> None:
        """Write the figure as PNG or SVG, on white."""
        path.write_bytes(self._svg(drawn) if path.suffix == ".svg" else self._png(drawn))

    def _svg(self, drawn: Drawn) -> bytes:
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        buffer = io.BytesIO()
        with _settings():
            figure = self._axes[drawn.size].figure
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": "svd_batch"})
        return buffer.getvalue()

    def _png(self, drawn: Drawn) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        buffer = io.BytesIO()
        with _settings():
            figure = self._axes[drawn.size].figure
            figure.dpi = PNG_DPI
            FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
            figure.dpi = 72
        return buffer.getvalue()

    # --- the canvas ---------------------------------------------------------------------------------------

    def _clean(self, size: tuple[int, int]) -> Any:
        """Return empty axes of a size, those of the last figure."""
        if size not in self._axes:
            self._axes[size] = _new_axes(size)
        axes = self._axes[size]
        for artist in [*axes.lines, *axes.patches, *axes.texts, *axes.figure.texts]:
            artist.remove()
        return axes

    def _limits(self, axes: Any, at: Sequence[float], curve: Curve, pictures: Sequence[Sequence[float]]) -> None:
        values = [v for p in curve.points for v in (p.center, p.low, p.high) if v is not None]
        _range(axes, "y", values, 0.08)
        if len(pictures) > 1:  # show where most pictures are, as long as the curve keeps a third of the height
            low, high = axes.get_ylim()
            inner = sorted(v for line in pictures for v in line)
            some = inner[len(inner) // 10 : len(inner) - len(inner) // 10] or inner
            room = (high - low) * 1.0
            axes.set_ylim(max(min(low, some[0]), low - room), min(max(high, some[-1]), high + room))
        _range(axes, "x", list(at), 0.05 if isinstance(at[0], float) else 0.25)
        _ticks(axes, "y", 5)


@dataclass(frozen=True)
class Spot:
    """One cell in the plane of two metrics."""

    x: float
    y: float
    name: str
    text: str
    is_best: bool
    cell: Mapping[str, Any] | None = None


def said(point: Point, axis: Axis, metric: Metric, statistic: str, step: float) -> str:
    """Return what a point of a curve says when it is pointed at, with digits that tell values `step` apart."""
    assert point.center is not None
    text = f"{axis.name} {wording.shown(point.value, axis)}: {statistic} {wording.number(point.center, step)}"
    text = wording.with_unit(text, metric)
    if point.low is not None and point.high is not None:
        text += f", 95 % interval {wording.number(point.low, step)} to {wording.number(point.high, step)}"
    pictures = "1 picture" if point.num_pictures == 1 else f"{point.num_pictures} pictures"
    return f"{text}, {pictures}"


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks
        yield


def _new_axes(size: tuple[int, int]) -> Any:
    from matplotlib.figure import Figure

    width, height = size
    left, right, top, bottom = _MARGINS
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="white")
    figure.patch.set_gid(GROUND)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=COLOURS["faint"], linewidth=1)
    axes.tick_params(length=0, pad=5, labelcolor=COLOURS["soft"], labelsize=FONT_PX - 0.5)
    axes.grid(axis="y", color=COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _range(axes: Any, side: str, values: Sequence[float], margin: float) -> None:
    low, high = min(values), max(values)
    space = (high - low) * margin or abs(high) * margin or 1.0
    getattr(axes, f"set_{side}lim")(low - space, high + space)


def _ticks(axes: Any, side: str, most: int) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = getattr(axes, f"get_{side}lim")()
    places = [v for v in MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= v <= high]
    getattr(axes, f"set_{side}ticks")(places, [f"{v:.6g}".replace("-", "−") for v in places])
    for line in getattr(axes, f"get_{side}gridlines")():
        line.set_clip_on(False)


def _x_ticks(axes: Any, at: Sequence[float], names: Sequence[str]) -> None:
    """Label as many steps as there is room for; the last one always."""
    box = axes.get_window_extent()
    low, high = axes.get_xlim()
    place = [box.x0 + (x - low) / (high - low) * box.width for x in at]
    length = max(3, int(box.width / (0.66 * FONT_PX) / max(len(at), 2))) if not isinstance(at[0], float) else 99
    short = [shortened(name, length) for name in names]
    half = [0.33 * FONT_PX * len(name) + 4 for name in short]
    chosen = [len(at) - 1]
    for i in range(len(at) - 1):
        before = chosen[-1] if len(chosen) > 1 else None
        fits = before is None or place[i] - half[i] > place[before] + half[before]
        if fits and place[i] + half[i] < place[-1] - half[-1]:
            chosen.append(i)
    chosen.sort()
    axes.set_xticks([at[i] for i in chosen], [short[i] for i in chosen])


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


def _words(axes: Any, size: tuple[int, int], above: str, below: str, right: str) -> None:
    width, height = size
    figure = axes.figure
    figure.text(6 / width, 1 - 6 / height, shortened(above, 58), va="top", color=COLOURS["ink"], fontsize=FONT_PX)
    left = _MARGINS[0] / width
    figure.text(left, 7 / height, shortened(below, 34), va="bottom", color=COLOURS["ink"], fontsize=FONT_PX)
    right_at = 1 - _MARGINS[1] / width
    figure.text(right_at, 7 / height, right, va="bottom", ha="right", color=COLOURS["soft"], fontsize=FONT_PX - 1)


def _name_spots(axes: Any, spots: Sequence[Spot]) -> None:
    """Name cells beside their points, those that come first first, as long as no name covers another or a point."""
    box = axes.get_window_extent()
    to_px = axes.transData.transform
    points = [tuple(to_px((s.x, s.y))) for s in spots]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    high = FONT_PX + 1
    for spot, (x, y) in zip(spots, points, strict=True):
        wide = 0.62 * FONT_PX * len(spot.name) + 2
        places = ((x + 7, y + 3), (x - 7 - wide, y + 3), (x + 7, y - 3 - high), (x - 7 - wide, y - 3 - high))
        for left, bottom in (*places, (x - wide / 2, y + 7), (x - wide / 2, y - 7 - high)):
            mine = (left, bottom, left + wide, bottom + high)
            inside = box.x0 - 30 <= mine[0] and mine[2] <= box.x1 + 12 and box.y0 <= mine[1] and mine[3] <= box.y1 + 6
            if inside and not any(_overlap(mine, other) for other in taken):
                taken.append(mine)
                place = axes.transData.inverted().transform((left, bottom + 2))
                colour = COLOURS["ink" if spot.is_best else "soft"]
                axes.text(*place, spot.name, fontsize=FONT_PX - 1, color=colour, zorder=5, va="bottom")
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
