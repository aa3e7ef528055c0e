"""What a person sees while a job runs: our lines only, everything else goes to a log file.

Libraries written in C++ print to file descriptors 1 and 2, out of reach of `logging`; so the descriptors themselves
are pointed at the log while the job runs, and our own lines keep a copy of the originals.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

PLAIN_INTERVAL_S = 10.0
EARLY_S = 1.0
"""Before this, the first videos say nothing of the rate."""


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)  # the log is written inside OUTPUT and nowhere else


class Console:
    """Our lines. `quiet(log)` sends everybody else's output to a file for as long as it is open."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr

    def say(self, text: str) -> None:
        """Print one line of result or advice to standard output."""
        print(text, file=self.out, flush=True)

    def warn(self, text: str) -> None:
        """Print one line to standard error."""
        print(f"warning: {text}", file=self.err, flush=True)

    @contextmanager
    def quiet(self, log: Path) -> Iterator[Console]:
        """Yield a console whose lines still reach the terminal while all other output is appended to `log`."""
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [os.dup(1), os.dup(2)]
        with (
            open(log, "a", encoding="utf-8", opener=_no_link) as file,
            os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace") as out,
            os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace") as err,
        ):
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                yield Console(out, err)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                for target, original in zip((1, 2), saved, strict=True):
                    os.dup2(original, target)
                    os.close(original)


class Progress:
    """Counts videos done and failed, with the rate and the time left; a bar on a terminal, else plain lines."""

    def __init__(self, total: int, console: Console, opening: str = "loading the model") -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._file = console.err
        self._console = console
        self._said: set[str] = set()
        self._start = time.monotonic()
        self._first: float | None = None
        self._last_line = self._start
        self._bar = None
        if self._file.isatty():
            self._bar = tqdm(
                total=total,
                file=self._file,
                unit="video",
                bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
                desc=opening,
                mininterval=0.2,
                dynamic_ncols=True,  # else a narrow window gets a new line for each update
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, *, failed: bool = False) -> None:
        """Count one finished item."""
        now = time.monotonic()
        self._first = self._first or now
        self.done += 1
        self.failed += failed
        if self._bar is not None:
            self._bar.set_description_str("videos", refresh=False)
            self._bar.set_postfix_str(f"{self.videos_per_minute:.1f}/min, {self.failed} failed", refresh=False)
            self._bar.update()
        elif self.done in (1, self.total) or now - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = now
            print(self.line(), file=self._file, flush=True)

    def say_once(self, text: str) -> None:
        """Print one line of result that hasn't been printed before: several actors may say the same."""
        if text in self._said:
            return
        self._said.add(text)
        if self._bar is not None:
            self._bar.clear()
        self._console.say(text)
        if self._bar is not None:
            self._bar.refresh()

    @property
    def videos_per_minute(self) -> float:
        """Rate since the first video; until the second, since the start."""
        now = time.monotonic()
        if self._first is not None and self.done > 1:
            return 60 * (self.done - 1) / max(now - self._first, 1e-9)
        return 60 * self.done / max(now - self._start, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """What the rest takes at this rate."""
        rate = self.videos_per_minute
        return 60 * (self.total - self.done) / rate if rate > 0 else None

    def line(self) -> str:
        """Return done/total, failures, rate and time left on one line."""
        left = self.seconds_left
        is_early = 0 < self.done < self.total and time.monotonic() - self._start < EARLY_S
        rate = "?" if is_early else f"{self.videos_per_minute:.1f}"
        eta = "?" if is_early or left is None else duration(left)
        return f"{self.done}/{self.total} videos, {self.failed} failed, {rate} videos/min, {eta} left"


def duration(seconds: float) -> str:
    """Return a duration as a person reads it: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(num_bytes: float) -> str:
    """Return a number of bytes as a person reads it: 812 B, 4.2 kB, 1.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
