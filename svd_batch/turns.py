"""Turns of the threads that write: one of them goes on at a time, the others wait for the disk, or for it.

Python's lock alone would let them all: each system call gives it up, another thread takes it, and the first waits to
have it back. With five threads that are some forty switches a video, which cost a small clip more than its commit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_turn = threading.Lock()
_mine = threading.local()


@contextmanager
def turn() -> Iterator[None]:
    """Go on when it is this thread's turn, until this ends. Not to be had twice."""
    with _turn:
        _mine.is_held = True
        try:
            yield
        finally:
            _mine.is_held = False


@contextmanager
def given_up() -> Iterator[None]:
    """Give others their turn meanwhile, where this thread has it: for what waits outside of Python."""
    if not getattr(_mine, "is_held", False):
        yield
        return
    _turn.release()
    try:
        yield
    finally:
        _turn.acquire()
