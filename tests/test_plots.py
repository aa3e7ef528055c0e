"""Figures: what they say, that many of them stand in one page, and that they follow its colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sweep_tables import sweep

from svd_batch.analysis import Analysis, analyse, describe
from svd_batch.report.canvas import PNG_DPI, Canvas, settings, write_around
from svd_batch.report.plots import SIZE, WIDE, draw_curve, span_of
from svd_batch.report.svg import COLOURS, salt

STATIC = Path(__file__).parents[1] / "svd_batch/report/static"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    """Return an analysis in which motion is bucket / 100 for every picture."""
    metrics = {"motion": lambda row: row["motion_bucket_id"] / 100, "likeness": lambda row: row["picture"] / 10}
    return analyse(sweep({"motion_bucket_id": [20, 127, 240], "fps": [6, 7]}, metrics=metrics))


def curve_svg(analysis: Analysis, index: int, canvas: Canvas | None = None) -> str:
    """Return one curve of the analysis for the page."""
    canvas = canvas or Canvas()
    curve = analysis.curves[index]
    axis = next(axis for axis in analysis.axes if axis.name == curve.axis)
    return canvas.svg(draw_curve(canvas, curve, axis, describe(curve.metric), [[0.1] * len(axis.values)] * 2))


def test_each_point_says_its_median_interval_and_pictures(analysis: Analysis):
    titles = [e.text or "" for e in ET.fromstring(curve_svg(analysis, 0)).iter("title")]
    assert [re.findall(r"median ([\d.]+)\u00a0px a frame", t)[0] for t in titles] == ["0.20", "1.27", "2.40"]
    assert titles[1] == "motion_bucket_id 127: median 1.27\u00a0px a frame, 95\u00a0% interval 1.27 to 1.27, 8 pictures"


def test_text_stays_text_and_names_the_axes_with_their_units(analysis: Analysis):
    texts = [e.text for e in ET.fromstring(curve_svg(analysis, 0)).iter("text")]
    assert {"motion, px a frame", "motion_bucket_id", "8 pictures", "20", "127", "240"} <= set(texts)


def test_two_figures_in_a_page_share_no_id(analysis: Analysis):
    found = [re.findall(r'\sid="([^"]*)"', curve_svg(analysis, i)) for i in (0, 1)]
    assert all(found)
    assert not set(found[0]) & set(found[1])
    assert salt("motion-by-fps") != salt("motion-by-fps ")


def test_a_canvas_that_was_used_draws_the_same_bytes_as_a_new_one(analysis: Analysis):
    used = Canvas()
    curve_svg(analysis, 2, used)
    assert curve_svg(analysis, 0, used) == curve_svg(analysis, 0)


def test_colours_are_classes_that_the_style_sheet_knows(analysis: Analysis):
    svg = curve_svg(analysis, 0)
    assert "style=" not in svg
    assert not set(COLOURS.values()) & set(re.findall(r"#[0-9a-f]{6}", svg))
    known = (STATIC / "answer.css").read_text()
    classes = {c for names in re.findall(r'class="([^"]*)"', svg) for c in names.split()}
    assert classes <= {*re.findall(r"\.([\w-]+)", known)}


def test_the_curves_of_a_metric_share_one_scale(analysis: Analysis):
    assert span_of([c for c in analysis.curves if c.metric == "motion"], []) == (0.2, 2.4)


def test_names_are_never_read_as_formulas_and_hostile_text_stays_text(analysis: Analysis):
    from dataclasses import replace

    canvas, curve = Canvas(), analysis.curves[0]
    name = "</text><script>alert(1)</script> $x^$"
    metric = replace(describe("motion"), title=name + "\x1b")
    svg = canvas.svg(draw_curve(canvas, curve, analysis.axes[0], metric))
    assert "<script" not in svg
    assert any(name in (e.text or "") for e in ET.fromstring(svg).iter("text"))


def test_files_have_the_size_that_print_needs_and_the_same_bytes_each_time(analysis: Analysis, tmp_path: Path):
    canvas, curve = Canvas(), analysis.curves[0]
    for name in ("a", "b"):
        drawn = draw_curve(canvas, curve, analysis.axes[0], describe("motion"))
        canvas.save(drawn, tmp_path / f"{name}.png")
        canvas.save(drawn, tmp_path / f"{name}.svg")
    assert Image.open(tmp_path / "a.png").size == tuple(side * PNG_DPI // 72 for side in SIZE)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a.svg").read_bytes()


@pytest.mark.parametrize(
    ("size", "below", "right", "is_whole"),
    [
        (WIDE, "motion, px a frame", "motion_bucket_id · noise_aug_strength · fps · max_guidance_scale", False),
        (WIDE, "motion, px a frame", "motion_bucket_id · noise_aug_strength", True),
        (SIZE, "deep_cache_interval", "8 to 12 pictures", True),
    ],
)
def test_what_stands_left_and_right_below_a_figure_keeps_apart(size: Any, below: str, right: str, is_whole: bool):
    axes = Canvas().axes(size)
    with settings():
        write_around(axes, size, "likeness", below, right)
        left, other = (text.get_window_extent() for text in axes.figure.texts[1:])
    assert left.x1 < other.x0
    assert (axes.figure.texts[2].get_text() == right) == is_whole


def test_figures_in_heatmap_cells_stand_out_from_every_colour():
    rules = re.findall(
        r"\.heat-\d+ \{ background: (#\w{6}); fill: \1; color: (#\w{3});", (STATIC / "answer.css").read_text()
    )
    assert len(rules) == 24
    lightness = [_luminance(background) for background, _ in rules]
    assert lightness == sorted(lightness)
    for background, (_, text) in zip(lightness, rules, strict=True):
        light, dark = max(background, float(text == "#fff")), min(background, float(text == "#fff"))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
