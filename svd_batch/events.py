"""A run's events as JSON lines: a line for its start, for each finished or failed video, and for its end.

Written by the driver into OUTPUT/.svd_batch/logs, for log collectors and for `status`; docs/operating.md has the
fields. Standard library alone.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from svd_batch.records import FailureRecord, VideoRecord

MAX_BYTES = 64 * 2**20
"""Of a file; the one before it is kept beside it, so a run has at most twice as much."""

TAIL_BYTES = 2**20
"""What `tail` reads: some two thousand videos."""

_SECONDS = ("load_s", "condition_s", "denoise_s", "decode_s", "embed_s", "encode_s", "commit_s", "metrics_s")
_OF_VIDEO = ("image_id", "video_id", "file_name", "num_bytes", "peak_memory_bytes", "host", "device_name")
_OF_FAILURE = ("image_id", "video_id", "stage", "error_type", "error_message", "attempts", "host")


class EventLog:
    """Counts what comes back of a run and writes it down; without `begin` it only counts.

    A disk that refuses the log ends the log, not the run.
    """

    def __init__(self) -> None:
        self.exit_code = 1
        """What the run ends with; set before its end."""
        self.num_asked = self.num_made = self.num_failed = 0
        self.failures: Counter[str] = Counter()
        """Failed videos by what failed, as `stage: message`."""
        self.has_begun = False
        """Whether there was a run at all."""
        self._share: Callable[[Path], object] | None = None
        self._path: Path | None = None
        self._file: TextIO | None = None
        self._num_bytes = 0
        """How long the file is."""
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return time.monotonic() - self._start

    def begin(self, path: Path, fields: Mapping[str, Any], share: Callable[[Path], object] | None = None) -> None:
        """Open the file and write the first line; `share` is given the file once the last line is in it."""
        self.has_begun, self._path, self._start, self._share = True, path, time.monotonic(), share
        self._write("start", _now(), fields)

    def ask(self, num_videos: int) -> None:
        """Count videos that are to be made now."""
        self.num_asked += num_videos

    def add(self, result: VideoRecord | FailureRecord) -> None:
        """Count one finished item and write its line."""
        if isinstance(result, FailureRecord):
            self.num_failed += 1
            self.failures[f"{result.stage}: {result.error_message}"] += 1
            self._write("failure", result.created_at, {name: getattr(result, name) for name in _OF_FAILURE})
        else:
            self.num_made += 1
            seconds = {name: getattr(result, name) for name in _SECONDS if getattr(result, name) is not None}
            self._write("video", result.created_at, {name: getattr(result, name) for name in _OF_VIDEO} | seconds)

    def end(self, fields: Mapping[str, Any]) -> None:
        """Write the last line and close the file."""
        self._write("end", _now(), {"exit_code": self.exit_code, "seconds": round(self.seconds, 3), **fields})
        self._close()
        if self._share is not None and self._path is not None:
            with suppress(Exception):  # a store that refuses it: the run has ended all the same
                self._share(self._path)

    def _write(self, event: str, moment: str, fields: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        counts = {"num_made": self.num_made, "num_failed": self.num_failed, "num_asked": self.num_asked}
        line = json.dumps({"time": moment, "event": event, **fields, **counts}) + "\n"  # ASCII, so nothing steers
        try:
            if self._file is None or self._num_bytes + len(line) > MAX_BYTES:
                self._open()
            assert self._file is not None
            self._num_bytes += self._file.write(line)
            self._file.flush()
        except OSError:
            self._path, self._file = None, None

    def _open(self) -> None:
        assert self._path is not None
        if self._file is not None:
            self._close()
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._path, flags, 0o666), "a", encoding="ascii")
        self._num_bytes = self._file.tell()

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def tail(path: Path, num_bytes: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """Return the last events of a file; none where there is no file. A line that is being written is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - num_bytes))
            data = file.read(num_bytes)
    except OSError:
        return []
    lines = data.split(b"\n")
    if size > num_bytes:
        del lines[0]  # its beginning is cut off
    events = []
    for line in lines:
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                events.append(event)
    return events
