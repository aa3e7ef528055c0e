"""The system's Chromium, driven by Playwright, for tests that need a real browser."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from parts import need

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")


@contextlib.contextmanager
def open_page(path: Path, width: int = 1280, height: int = 800) -> Iterator[tuple[Page, list[str]]]:
    """Yield the page at `path` from file:// and a list that fills with what the browser's console complains about."""
    chromium = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    need("Chromium", chromium is not None)
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=list(QUIET))
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.absolute().as_uri())
        yield page, complaints
        browser.close()
