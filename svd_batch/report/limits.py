"""What can't be said, and why: few pictures, confounded axes, holes, missing values."""

from __future__ import annotations

import math
from collections.abc import Iterator

from svd_batch.analysis import Analysis
from svd_batch.analysis.axes import MAX_VALUES
from svd_batch.analysis.bootstrap import FEW_PICTURES


def limits(analysis: Analysis) -> list[str]:
    """Return a sentence for each reason to be careful with the figures."""
    return [*_pictures(analysis), *_axes(analysis), *_holes(analysis), *_values(analysis)]


def _pictures(analysis: Analysis) -> Iterator[str]:
    count = analysis.num_pictures
    if count == 1:
        yield "There is one picture: what is shown is what happened to it, and no interval can be given for others."
    elif 1 < count < FEW_PICTURES:
        yield (
            f"There are only {count} pictures. With fewer than {FEW_PICTURES}, not even the range of all of them holds "
            "the median of others with 95 %: take the intervals as hints."
        )


def _axes(analysis: Analysis) -> Iterator[str]:
    if not analysis.axes and analysis.num_videos:
        yield "All videos are of one cell: nothing varies, so nothing can be said of what a parameter does."
    for axis in analysis.axes:
        if axis.also:
            yield (
                f"{axis.name} always changes together with {', '.join(axis.also)}; nothing tells their effects apart."
            )
        if axis.is_grouped:
            yield f"{axis.name} has more than {MAX_VALUES} values; neighbours are taken together."
    confounded = sorted({curve.axis for curve in analysis.curves if curve.is_confounded})
    for name in confounded:
        yield (
            f"Some steps of {name} were never made at the same settings of the other axes. Its curves show those other "
            "settings as well, and no effect of it is stated."
        )


def _holes(analysis: Analysis) -> Iterator[str]:
    steps = [len(axis.values) for axis in analysis.axes]
    made = len(set(analysis.cell_table.cells))
    whole = math.prod(steps)
    if len(steps) > 1 and made < whole:
        are, they = ("was", "it is") if whole - made == 1 else ("were", "they are")
        yield f"{whole - made} of the {whole} combinations of the axes {are} not made; {they} empty in the tables."
    counts = analysis.cell_table.num_pictures
    lacking = sum(n < analysis.num_pictures for n in counts)
    if lacking:
        lack = "lacks" if lacking == 1 else "lack"
        yield (
            f"{lacking} of {len(counts)} cells {lack} some of the {analysis.num_pictures} pictures. Curves compare "
            "steps within the same pictures as far as they can."
        )
    left_out = max((curve.num_left_out for curve in analysis.curves), default=0)
    if left_out:
        pictures = "1 picture is" if left_out == 1 else f"Up to {left_out} pictures are"
        yield f"{pictures} left out of some curves, so that all points of a curve are over the same pictures."


def _values(analysis: Analysis) -> Iterator[str]:
    titles = {metric.name: metric.title for metric in analysis.metrics}
    missing = {d.metric: d.num_missing for d in analysis.distributions if d.num_missing > 0}
    if missing:
        some = ", ".join(f"{titles[name]} ({count})" for name, count in list(missing.items())[:8])
        yield f"Some of the {analysis.num_videos} videos have no value of {some}; they don't count there."
