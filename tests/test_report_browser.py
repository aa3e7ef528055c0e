"""The report in a real browser, from file://, offline."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from builders import make_output
from parts import need

from svd_batch.report import write_report


def test_the_page_starts_its_clips_and_the_browser_has_nothing_to_complain_about(tmp_path: Path) -> None:
    browser = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    need("Chromium", browser is not None)
    store = make_output(tmp_path / "out")
    page = write_report(store.root)
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path / 'user'}"]
    ask = ["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    result = subprocess.run(
        [str(c) for c in [*command, *ask]], capture_output=True, text=True, timeout=120, check=False
    )
    started = re.findall(r'<video[^>]* src="(videos/[^"]+)"', result.stdout)
    assert started
    assert all((store.root / name).is_file() for name in started)
    assert not [line for line in result.stderr.splitlines() if "CONSOLE" in line]
