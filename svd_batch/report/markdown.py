"""report.md with figures as PNG and SVG: the answer for a README or a paper."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from svd_batch.analysis import Analysis, Metric, wording
from svd_batch.locations import filled
from svd_batch.report import front, sentences, tables
from svd_batch.report.answer import draw_curves
from svd_batch.report.canvas import Canvas, Drawn
from svd_batch.report.heatmaps import heat_span
from svd_batch.report.limits import limits
from svd_batch.report.meanings import meaning
from svd_batch.report.plots import draw_heatmap, metric_label
from svd_batch.report.sentences import Said

PLOTS = "plots"
_MARKUP = re.compile(r"([\\`*\[\]|])")


def write_markdown(analysis: Analysis, folder: Path, seconds: Sequence[float | None] | None = None) -> Path:
    """Write report.md and the folder of its plots, and return report.md's path; `seconds` as for `answer`."""
    with filled(folder) as here:
        (here / PLOTS).mkdir(parents=True, exist_ok=True)
        text = "\n".join(_lines(analysis, here, seconds)).rstrip() + "\n"
        (here / "report.md").write_text(text.encode("utf-8", "replace").decode(), encoding="utf-8")
    return folder / "report.md"


def plain(text: str) -> str:
    """Return text in which nothing is Markdown or HTML."""
    one_line = " ".join(text.split())
    return _MARKUP.sub(r"\\\1", one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _lines(analysis: Analysis, folder: Path, seconds: Sequence[float | None] | None) -> Iterator[str]:
    canvas = Canvas()
    yield f"# {plain(', '.join(analysis.outputs))}"
    yield ""
    if not analysis.num_videos:
        yield "No video was made."
        return
    axes = ", ".join(f"{axis.name} ({len(axis.values)} values)" for axis in analysis.axes)
    over = f" over {axes}" if axes else ", one cell"
    yield plain(f"{analysis.num_videos} videos of {analysis.num_pictures} pictures{over}.")
    yield ""
    if not analysis.metrics:
        yield "No metrics were measured: `svd-batch score OUTPUT` measures them."
        return
    yield from (_said(line) for line in (sentences.lead(analysis) if analysis.axes else ()))
    yield ""
    yield from _front(analysis, folder, canvas, seconds)
    yield from _shares(analysis)
    yield from _steady(analysis)
    by_name = {metric.name: metric for metric in analysis.metrics}
    for name in sentences.ordered(analysis):
        yield from _metric(analysis, by_name[name], folder, canvas)
    found = limits(analysis)
    if found:
        yield from ("## What can't be said", "", *(f"- {plain(line)}" for line in found), "")


def _said(line: Said) -> str:
    return f"- {plain(line.text)}" if not line.evidence else f"- {plain(line.text[:-1])} ({plain(line.evidence)})."


def _plot(canvas: Canvas, drawn: Drawn, folder: Path) -> str:
    """Write a figure as PNG and SVG, and return what shows it."""
    stem = re.sub(r"[^\w.-]+", "_", drawn.name)
    for suffix in (".png", ".svg"):
        canvas.save(drawn, folder / PLOTS / f"{stem}{suffix}")
    return f'<img src="{PLOTS}/{stem}.png" width="{drawn.size[0]}" alt="{stem}">'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(plain(cell) for cell in head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows)
    yield ""


def _front(analysis: Analysis, folder: Path, canvas: Canvas, seconds: Sequence[float | None] | None) -> Iterator[str]:
    found, drawn = front.front(analysis, seconds), front.draw_front(analysis, canvas)
    if found is None or drawn is None:
        return
    yield from ("## Motion against likeness", "", _plot(canvas, drawn, folder), "")
    pictures = f"{found.num_pictures} pictures" if found.num_pictures != 1 else "1 picture"
    yield f"{len(found.rows)} of {found.num_cells} cells are the best trades; medians over {pictures}."
    yield ""
    yield from _table([*found.axes, *found.columns], [[*names, *figures] for names, figures, _ in found.rows])


def _shares(analysis: Analysis) -> Iterator[str]:
    found = tables.bars(analysis)
    if found:
        yield from ("## Which axis explains how much", "", "Shares of the variance of all videos.", "")
        head = ["metric", *(name for _, name in tables.kinds(analysis))]
        yield from _table(head, [[bar.title, *(f"{part.length:.0f} %" for part in bar.parts)] for bar in found])


def _steady(analysis: Analysis) -> Iterator[str]:
    axes, rows = tables.steadiness(analysis)
    if rows:
        yield from ("## How steadily each metric follows", "")
        yield from ("Rank correlation within each picture: median over pictures, 95 % interval.", "")
        told = [[title, *(f"{c.rho} ({c.interval})" if c else "" for c in cells)] for title, cells in rows]
        yield from _table(["metric", *axes], told)


def _metric(analysis: Analysis, metric: Metric, folder: Path, canvas: Canvas) -> Iterator[str]:
    yield from (f"## {plain(metric_label(metric))}", "", plain(meaning(metric.name)), "")
    if not analysis.axes:
        figure = next(f for f in analysis.cell_table.figures if f.metric == metric.name)
        if figure.medians[0] is not None:
            yield from (f"Median {wording.with_unit(wording.number(figure.medians[0]), metric)}.", "")
        return
    yield from (_said(line) for line in sentences.of_metric(analysis, metric.name))
    yield ""
    yield from (_plot(canvas, drawn, folder) for drawn in draw_curves(analysis, metric, canvas))
    axes = {axis.name: axis for axis in analysis.axes}
    heatmaps = [h for h in analysis.heatmaps if h.metric == metric.name]
    span = heat_span(heatmaps)
    for found in heatmaps:
        yield _plot(canvas, draw_heatmap(canvas, found, (axes[found.x], axes[found.y]), metric, span), folder)
    yield ""
