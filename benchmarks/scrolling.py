"""What scrolling a report costs the page's main thread, in headless Chromium.

    .venv/bin/python benchmarks/report.py --videos 1000 --size 1024 576 --keep outputs/thousand
    .venv/bin/python benchmarks/scrolling.py outputs/thousand/report.html

Each picture of the screen the grid goes on by so many px, clips playing. Script, style and layout are the page's own
work, by Chromium's counters; pictures a second also depend on painting and decoding, which a GPU would do.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

SCROLL = """([px, seconds]) => new Promise(done => {
    const box = document.getElementById("viewport"), start = performance.now(), gaps = [];
    let before = start, most = 0, loaded = 0;
    const seen = new Set(), tasks = [];
    const note = list => tasks.push(...list.getEntries().map(entry => entry.duration));
    new PerformanceObserver(note).observe({ type: "longtask" });
    const next = now => {
        gaps.push(now - before);
        before = now;
        box.scrollTop += px;
        const videos = document.querySelectorAll("#canvas video");
        most = Math.max(most, videos.length);
        for (const video of videos) if (!seen.has(video)) seen.add(video), loaded += 1;
        const isAtEnd = box.scrollTop >= box.scrollHeight - box.clientHeight - 1;
        if (now - start < seconds * 1000 && !isAtEnd) requestAnimationFrame(next);
        else done({ frames: gaps.length, seconds: (now - start) / 1000, gaps, most, loaded, tasks });
    };
    requestAnimationFrame(next);
})"""


def measure(page: Any, session: Any, px: int, seconds: float) -> dict[str, float]:
    """Return ms of each kind a frame while the grid scrolls, frames a second, and how many videos were loaded."""
    page.evaluate("document.getElementById('viewport').scrollTop = 0")
    page.wait_for_timeout(2000)
    counters = lambda: {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}  # noqa: E731
    before = counters()
    found = page.evaluate(SCROLL, [px, seconds])
    after = counters()
    kinds = {
        "script": "ScriptDuration",
        "style": "RecalcStyleDuration",
        "layout": "LayoutDuration",
        "task": "TaskDuration",
    }
    each = {name: 1000 * (after[counter] - before[counter]) / found["frames"] for name, counter in kinds.items()}
    return {
        **each,
        "pictures_s": found["frames"] / found["seconds"],
        "slowest_ms": max(found["gaps"][1:]),
        "long_tasks": len(found["tasks"]),
        "videos_at_once": found["most"],
        "videos_loaded": found["loaded"],
    }


def main() -> None:
    """Print a line for each speed."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="+")
    parser.add_argument("--px", type=int, nargs="+", default=(4, 40, 200), help="px a frame")
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=["--disable-gpu"])
        for path in arguments.page:
            for px in arguments.px:
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                session = page.context.new_cdp_session(page)
                session.send("Performance.enable", {"timeDomain": "threadTicks"})  # what others do here doesn't count
                page.goto(path.absolute().as_uri() + "#play=1")
                page.wait_for_timeout(3000)
                page.evaluate("document.getElementById('clips').scrollIntoView()")
                found = measure(page, session, px, arguments.seconds)
                print(
                    f"{path.name}, {px} px a frame:", ", ".join(f"{name} {value:.2f}" for name, value in found.items())
                )
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
