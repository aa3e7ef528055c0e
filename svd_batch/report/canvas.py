"""The canvas that figures are drawn on, by matplotlib: inline SVG for the page, SVG and PNG for files.

matplotlib, since one well-kept library serves a page that runs no script for its figures, report.md and papers alike.
Axes take long to build and little to draw again, so a canvas keeps one for each size. Nothing is global: no pyplot,
settings hold while something is drawn, and the same figures give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd_batch.report.svg import COLOURS, GROUND, Dot, inline

FONT_PX = 11.0
PNG_DPI = 216
"""Three dots a px: sharp in a README on a fine screen, and 9 cm wide in print at 300 dpi."""
MARGINS = (44, 16, 30, 42)
"""Left, right, top, bottom in px."""
_SETTINGS: Any = {
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


class Canvas:
    """Holds one figure of each size; what was drawn last is what `svg` and `save` give."""

    def __init__(self) -> None:
        self._axes: dict[tuple[int, int], Any] = {}

    def axes(self, size: tuple[int, int]) -> Any:
        """Return empty axes of a size, those of the last figure."""
        if size not in self._axes:
            self._axes[size] = _new_axes(size)
        axes = self._axes[size]
        for artist in [*axes.lines, *axes.patches, *axes.images, *axes.texts, *axes.figure.texts]:
            artist.remove()
        return axes

    def svg(self, drawn: Drawn) -> str:
        """Return the figure as inline SVG for the page."""
        return inline(self._svg(drawn).decode(), drawn.name, drawn.label, drawn.dots)

    def save(self, drawn: Drawn, path: Path) -> None:
        """Write the figure as PNG or SVG, on white."""
        path.write_bytes(self._svg(drawn) if path.suffix == ".svg" else self._png(drawn))

    def _svg(self, drawn: Drawn) -> bytes:
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        buffer = io.BytesIO()
        with settings():
            figure = self._axes[drawn.size].figure
            canvas: Any = FigureCanvasSVG(figure)
            canvas.print_svg(buffer, metadata={"Date": None, "Creator": "svd_batch"})
        return buffer.getvalue()

    def _png(self, drawn: Drawn) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        buffer = io.BytesIO()
        with settings():
            figure = self._axes[drawn.size].figure
            figure.dpi = PNG_DPI
            canvas: Any = FigureCanvasAgg(figure)
            canvas.print_png(buffer, metadata={"Software": None})
            figure.dpi = 72
        return buffer.getvalue()


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Draw in our fonts, and quietly where a font lacks a letter."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _new_axes(size: tuple[int, int]) -> Any:
    from matplotlib.figure import Figure

    width, height = size
    left, right, top, bottom = MARGINS
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


def shortened(text: str, length: int) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= length else text[: max(length - 1, 1)] + "…"


def set_range(axes: Any, side: str, values: Sequence[float], margin: float) -> None:
    """Make one side of the axes hold some values, with a margin."""
    low, high = min(values), max(values)
    space = (high - low) * margin or abs(high) * margin or 1.0
    getattr(axes, f"set_{side}lim")(low - space, high + space)


def set_ticks(axes: Any, side: str, most: int) -> None:
    """Put so many ticks at round values, at most."""
    from matplotlib.ticker import MaxNLocator

    low, high = getattr(axes, f"get_{side}lim")()
    places = [v for v in MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= v <= high]
    getattr(axes, f"set_{side}ticks")(places, [f"{v:.6g}".replace("-", "−") for v in places])
    for line in getattr(axes, f"get_{side}gridlines")():
        line.set_clip_on(False)


def name_steps(axes: Any, at: Sequence[float], names: Sequence[str]) -> None:
    """Label as many steps as there is room for; the last one always."""
    box = axes.get_window_extent()
    low, high = axes.get_xlim()
    place = [box.x0 + (x - low) / (high - low) * box.width for x in at]
    is_words = not isinstance(at[0], float)
    length = max(3, int(box.width / (0.66 * FONT_PX) / max(len(at), 2))) if is_words else 99
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


def write_around(axes: Any, size: tuple[int, int], above: str, below: str, right: str) -> None:
    """Write what stands above the axes, and below them left and right, there as much as there is room for."""
    width, height = size
    below = shortened(below, 34)
    room = width - MARGINS[0] - MARGINS[1] - 0.6 * FONT_PX * (len(below) + 1)
    right = shortened(right, int(room / (0.6 * (FONT_PX - 1))))
    figure = axes.figure
    figure.text(6 / width, 1 - 6 / height, shortened(above, 58), va="top", color=COLOURS["ink"], fontsize=FONT_PX)
    left = MARGINS[0] / width
    figure.text(left, 7 / height, below, va="bottom", color=COLOURS["ink"], fontsize=FONT_PX)
    right_at = 1 - MARGINS[1] / width
    figure.text(right_at, 7 / height, right, va="bottom", ha="right", color=COLOURS["soft"], fontsize=FONT_PX - 1)
