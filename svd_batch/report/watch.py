"""The page of a run that goes on, written again and again from the records; the run's own tables are never touched."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from svd_batch.report import write_report
from svd_batch.store import Store

_SHARE = 0.2
"""At most so much of the time goes into writing the page, so that the run keeps its cores."""
_LOOK_S = 1.0
"""How often it is looked for a folder that isn't there yet."""


def watch(
    roots: Sequence[Path], out: Path | None, interval_s: float, *, embed: bool = False, markdown: bool = False
) -> Path:
    """Write the page every `interval_s` until every folder's run is over or Ctrl-C; return it, written as finished.

    A folder that isn't there yet is waited for. `markdown` writes report.md, too, at the end.

    Raises: UserError when one is no output folder.
    """
    said = False
    try:
        for root in roots:
            _wait_for(Store(root))
        while not all(is_over(Store(root)) for root in roots):
            start = time.monotonic()
            path = write_report(roots, out, embed=embed, live=True, refresh_s=interval_s)
            if not said:
                print(f"{path.resolve().as_uri()}\nwatching; Ctrl-C ends it", file=sys.stderr)
                said = True
            time.sleep(max(interval_s, (time.monotonic() - start) / _SHARE))
    except KeyboardInterrupt:
        print("no longer watching", file=sys.stderr)
    is_live = not all(is_over(Store(root)) for root in roots)
    return write_report(roots, out, embed=embed, live=is_live, markdown=markdown)


def _wait_for(store: Store) -> None:
    """Return once a run has begun where there is no folder yet."""
    if store.root.exists():
        return
    print(f"waiting for a run to make {store.root}; Ctrl-C ends it", file=sys.stderr)
    while not store.exists():
        time.sleep(_LOOK_S)


def is_over(store: Store) -> bool:
    """Return whether the last run wrote its table, which it does at its end, also when it is interrupted."""
    if not store.metadata.is_file() or not store.run_json.is_file():
        return not store.run_json.is_file()
    return store.metadata.stat().st_mtime >= store.run_json.stat().st_mtime
