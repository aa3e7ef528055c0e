"""The report in a real browser, from file://, offline."""

from __future__ import annotations

from pathlib import Path

from browser import open_page
from builders import make_output

from svd_batch.report import write_report


def test_the_page_starts_its_clips_and_the_browser_has_nothing_to_complain_about(tmp_path: Path) -> None:
    store = make_output(tmp_path / "out")
    with open_page(write_report(store.root)) as (page, complaints):
        page.wait_for_selector("video[src]")
        started = page.eval_on_selector_all("video[src]", "videos => videos.map(v => v.getAttribute('src'))")
    assert all((store.root / name).is_file() for name in started)
    assert not complaints
