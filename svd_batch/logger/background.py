"""A thread that writes what a run logs, so that the run waits for no network and no disk."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from queue import Empty, Full, Queue, SimpleQueue
from typing import Protocol

MOST_WAITING = 10_000
"""Points that wait for a slow sink; what comes on top of them is dropped, and counted."""
CLOSE_S = 60.0


class Sink(Protocol):
    """Where points go. All of it is called in one thread."""

    name: str

    def start(self) -> str:
        """Open it and return where the run is to be seen."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write one point."""

    def finish(self, exit_code: int) -> None:
        """Bring everything to its place and close."""


class Background:
    """The thread, its queue, and what it has to say."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: Queue[tuple[Mapping[str, float], int] | int] = Queue(MOST_WAITING)
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._has_failed = False
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._work, name="svd_batch logger", daemon=True)
        self._thread.start()

    def put(self, values: Mapping[str, float], step: int) -> None:
        """Hand over one point; returns at once."""
        if self._has_failed:
            return
        try:
            self._queue.put_nowait((dict(values), step))
        except Full:
            self._num_dropped += 1

    def take_notes(self) -> Sequence[str]:
        """Return what hasn't been told yet."""
        notes = []
        while True:
            try:
                notes.append(self._notes.get_nowait())
            except Empty:
                return notes

    def close(self, exit_code: int) -> None:
        """Write what waits, finish, and wait for it, a minute at most."""
        try:
            self._queue.put(exit_code, timeout=CLOSE_S)
            self._thread.join(CLOSE_S)
        except Full:
            pass
        if self._thread.is_alive():
            self._notes.put(f"logger: {self._sink.name} has not taken everything in {CLOSE_S:g} s and is left alone")
        if self._num_dropped:
            self._notes.put(f"logger: {self._num_dropped} points were dropped, since {self._sink.name} was too slow")

    def _work(self) -> None:
        try:
            self._notes.put(f"logger: {self._sink.start()}")
            while not isinstance(item := self._queue.get(), int):
                self._sink.log(*item)
            self._sink.finish(item)
        except Exception as error:  # whatever a network, a disk or somebody's library comes up with
            self._has_failed = True
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            self._notes.put(f"logger: {self._sink.name} failed and logs no more of this run: {reason}")
            while not isinstance(self._queue.get(), int):  # so that `close` never waits
                pass
