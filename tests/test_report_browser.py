"""The report in a real browser, from file://, offline."""

from __future__ import annotations

from pathlib import Path

from browser import open_browser, open_file
from builders import make_cell, make_output

from svd_batch.report import write_report

GRID = [make_cell(motion_bucket_id=m, noise_aug_strength=n) for m in (20, 127, 240) for n in (0.02, 0.1)]


def test_the_page_starts_its_clips_and_the_browser_has_nothing_to_complain_about(tmp_path: Path) -> None:
    store = make_output(tmp_path / "out", cells=GRID)
    with open_browser() as browser:
        opened = open_file(browser, write_report(store.root))
        opened.page.wait_for_selector("video[src]")
        assert not opened.complaints
