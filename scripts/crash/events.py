"""The diary that all processes of a crash test share: one line of JSON an event, appended whole."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_open = os.open  # as it was before the layer


@dataclass(frozen=True)
class Event:
    """Something that a process did."""

    kind: str
    """`begin` of a cell, `commit` of a record, `kill`, `fault`, or the number of `operations` at a process's end."""
    time: float
    pid: int
    what: str


def note(path: str, kind: str, what: str) -> None:
    """Append an event."""
    line = json.dumps({"kind": kind, "time": time.time(), "pid": os.getpid(), "what": what}) + "\n"
    descriptor = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Event]:
    """Return the events so far, in order."""
    if not path.exists():
        return []
    events = [Event(**json.loads(line)) for line in path.read_text().splitlines() if line]
    return sorted(events, key=lambda event: event.time)


def cell_key(seed: int, cell: dict[str, Any]) -> str:
    """Return what names a video where its id isn't known: its seed, which is its picture's, and its cell."""
    return f"{seed} {json.dumps(cell, sort_keys=True)}"
