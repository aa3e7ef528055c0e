"""How fluid a report's grid of clips scrolls, in headless Chromium, which paints without a GPU.

    .venv/bin/python benchmarks/report.py --videos 1000 --size 1024 576 --keep outputs/thousand
    .venv/bin/python benchmarks/scrolling.py outputs/thousand/report.html

A mouse wheel turns over the grid for some seconds, clips playing and not. Printed are the pictures of the screen that
the browser drew, of 60 a second that it could; those that the page's own scripts saw, and the longest time between two
of them; in how many of these the middle of the grid had no row yet; and what script, style and layout cost the page's
thread each second, by Chromium's counters.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

WATCH = """() => {
    window.seen = { gaps: [], empty: 0 };
    const box = document.getElementById("viewport").getBoundingClientRect();
    let before = performance.now();
    const look = now => {
        seen.gaps.push(now - before);
        before = now;
        const isRow = y => document.elementFromPoint(box.left + 0.4 * box.width, box.top + y)?.closest(".row");
        if (!isRow(0.6 * box.height) && !isRow(0.6 * box.height + 20)) seen.empty += 1; // not what lies between two
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""
COUNTERS = {"script": "ScriptDuration", "style": "RecalcStyleDuration", "layout": "LayoutDuration"}


def measure(browser: Any, page: Any, speed: int, seconds: float) -> dict[str, float]:
    """Return what scrolling by `speed` px a second for some seconds showed and cost."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # what others do here doesn't count
    counters = lambda: {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}  # noqa: E731
    place = page.locator("#viewport").bounding_box()
    page.evaluate(WATCH)
    before = counters()
    with tempfile.NamedTemporaryFile(suffix=".json") as trace:
        browser.start_tracing(
            page=page,
            path=trace.name,
            categories=["disabled-by-default-devtools.timeline.frame", "devtools.timeline.frame"],
        )
        gesture = {"yDistance": -speed * seconds, "speed": speed, "gestureSourceType": "mouse", "preventFling": True}
        middle = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}
        session.send("Input.synthesizeScrollGesture", {**middle, **gesture})
        seen, after = page.evaluate("seen"), counters()
        browser.stop_tracing()
        events = json.loads(Path(trace.name).read_text(encoding="utf-8"))["traceEvents"]
    took = sum(seen["gaps"]) / 1000
    return {
        "pictures drawn a second": sum(event["name"] == "DrawFrame" for event in events) / took,
        "seen by scripts": len(seen["gaps"]) / took,
        "longest gap in ms": max(seen["gaps"]),
        "without a row": seen["empty"],
        **{f"{name} ms/s": 1000 * (after[key] - before[key]) / took for name, key in COUNTERS.items()},
    }


def main() -> None:
    """Print a line for each speed, clips playing and not."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--speeds", type=int, nargs="+", default=(800, 3000, 12000), help="px a second")
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=["--disable-gpu"])
        for speed in arguments.speeds:
            for play in (1, 0):
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.goto(f"{arguments.page.absolute().as_uri()}#play={play}")
                page.wait_for_timeout(2500)
                page.evaluate("document.getElementById('clips').scrollIntoView({ behavior: 'instant' })")
                page.wait_for_timeout(2000)
                found = measure(browser, page, speed, arguments.seconds)
                values = ", ".join(f"{name} {value:.0f}" for name, value in found.items())
                print(f"{speed} px a second, {'playing' if play else 'still'}: {values}")
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
