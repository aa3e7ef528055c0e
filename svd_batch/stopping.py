"""How a run is stopped: the first Ctrl-C or SIGTERM ends it in order, a second one at once. Standard library alone."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

INTERRUPTED = 130

_SAME_S = 0.5
"""Two signals as close as that are one: a terminal and a program that passes signals on both send it."""


class _Stop:
    """What is known of the run's end, for the whole process as its signals are."""

    def __init__(self) -> None:
        self.depth = 0
        self.first: float | None = None
        """When the first signal came."""
        self.is_stuck = False
        self.last_steps: list[Callable[[], None]] = []
        """What a second signal still does: quick, and safe at any moment."""


_stop = _Stop()


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, and end the process at a second one; within another, take the signals anew.

    Where a signal is ignored (a shell's background job), or outside the main thread, it stays as it is.
    """
    if _stop.depth == 0:
        _stop.first, _stop.is_stuck = None, False
    before: dict[signal.Signals, Any] = {}
    _stop.depth += 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if number is signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue
            with suppress(ValueError):  # not in the main thread: the caller's signals are the caller's
                before[number] = signal.signal(number, _on_signal)
        yield
    finally:
        _stop.depth -= 1
        if _stop.depth == 0:  # the inner ones found whose hands they were to take it from
            for number, handler in before.items():
                signal.signal(number, handler)


def take_again() -> None:
    """Take the signals anew, where they are ours: Ray's C++ part gives SIGTERM back to the system as it shuts down."""
    if _stop.depth:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) == _on_signal:
                with suppress(ValueError):
                    signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _stop.first is None:
        _stop.first = now
        raise KeyboardInterrupt
    if now - _stop.first < _SAME_S:
        return
    for step in _stop.last_steps:
        with suppress(Exception):
            step()
    os._exit(INTERRUPTED)


@contextmanager
def at_once(step: Callable[[], None]) -> Iterator[None]:
    """Let a second signal do `step` before it ends the process, as long as this is open."""
    _stop.last_steps.append(step)
    try:
        yield
    finally:
        _stop.last_steps.remove(step)


def leave_behind() -> None:
    """Note that a thread computes on and can't be stopped: the process must not wait for it when it ends."""
    _stop.is_stuck = True


def end_if_stuck(code: int) -> None:
    """End the process with this exit code where a thread was left behind."""
    if _stop.is_stuck:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
