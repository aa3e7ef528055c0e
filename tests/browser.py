"""The system's Chromium, driven by Playwright, for tests that need a real browser."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parts import need

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")


@dataclass
class Opened:
    """A page with what the browser's console complained about and every address it asked for, both still filling."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def until(self, code: str, arg: Any = None, seconds: float = 10) -> None:
        """Wait until a JavaScript function returns true; Playwright's own waiting needs eval, which pages forbid."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(code, arg):
            assert time.monotonic() < end, f"never true: {code}"
            self.page.wait_for_timeout(30)

    def count(self, selector: str) -> int:
        """Return how many elements there are."""
        return self.page.locator(selector).count()

    def text(self, selector: str) -> str:
        """Return the text of one element."""
        return self.page.locator(selector).inner_text()

    def videos(self, selector: str = "video") -> list[dict[str, float]]:
        """Return share of the clip played, frames a clip and whether it is ready, of every loaded video at once."""
        code = """videos => videos.filter(v => v.readyState >= 2).map(v => ({share: v.currentTime / v.duration,
            seconds: v.currentTime, paused: v.paused}))"""
        found: list[dict[str, float]] = self.page.eval_on_selector_all(selector, code)
        return found


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Yield a browser that asks nothing of a network by itself."""
    chromium = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    need("Chromium", chromium is not None)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=list(QUIET))
        yield browser
        browser.close()


def open_file(
    browser: Browser, path: Path, hash: str = "", width: int = 1280, height: int = 800, **options: Any
) -> Opened:
    """Return the page at `path`, opened from file:// in a profile of its own; `hash` is what follows the #."""
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.set_default_timeout(10_000)
    opened = Opened(page)
    page.on("console", lambda message: opened.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.absolute().as_uri() + (f"#{hash}" if hash else ""))
    return opened
