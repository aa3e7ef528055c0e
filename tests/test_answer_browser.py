"""The answer at a phone's width in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import open_browser, open_file
from sweep_tables import noise, sweep
from test_answer import GRID, METRICS, STATIC_CSS, page_of


def test_nothing_is_wider_than_a_phone_and_points_are_coloured(tmp_path: Path) -> None:
    axes = {**GRID, "motion_bucket_id": list(range(1, 241, 8))}
    html = page_of(sweep(axes, metrics={**METRICS, "sharpness": noise(1.0)}))
    path = tmp_path / "answer.html"
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    path.write_text(f"{head}<style>{STATIC_CSS.read_text()}</style><body>{html}")
    with open_browser() as browser:
        opened = open_file(browser, path, width=375, height=700)
        page = opened.page
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        width = page.evaluate("document.documentElement.scrollWidth")
        figures = page.eval_on_selector_all(".figure", "all => all.map(f => f.getBoundingClientRect().right)")
        fill = page.eval_on_selector(".dot .fill-accent", "dot => getComputedStyle(dot).fill")
    assert width == 375
    assert len(figures) == 9
    assert max(figures) <= 375
    assert fill == pytest.approx("rgb(43, 127, 196)")
    assert not opened.complaints
