"""One writer an output folder: a lease that is taken, renewed and given back.

The folder holds numbered files, and the highest number is the lease. Its file is never removed, only marked as
released, so whoever finds it free, or its owner dead, makes the next number: exclusive creation lets exactly one do
that, and nobody ever touches a file that somebody else may hold. In a store a PUT that is refused where there is such
a file does the same. docs/durability.md says what is promised.
"""

from __future__ import annotations

import json
import math
import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svd_batch.errors import UserError, is_storage, store_error
from svd_batch.locations import children, create, is_remote, read_bytes, remove
from svd_batch.owner import Owner, is_alive, this_process

HEARTBEAT_S = 5.0
"""How often the holder changes its file."""

EXPIRY_S = 60.0
"""How long a lease of another machine must have stood still, watched from here, to count as its owner's death."""

_POLL_S = 0.25
_UNREADABLE_FOR = 8
"""Looks at a file that says nothing before a person is told of it: one that is being written is whole by then."""
_SIZE_BYTES = 1024
"""Of a lease's file, always: it is written over in one piece."""


@dataclass(frozen=True)
class _State:
    """What a lease's file says."""

    owner: Owner
    token: str
    since: str
    beats: int = 0
    is_released: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).ljust(_SIZE_BYTES - 1).encode("utf-8") + b"\n"


def _state(data: bytes) -> _State | None:
    """Return what a file says, None for one that is being written."""
    try:
        fields = json.loads(data)
        return _State(**{**fields, "owner": Owner(**fields["owner"])})
    except (ValueError, TypeError, KeyError):
        return None


class Lease:
    """The right to write into one output folder, held until `release`. Made by `take`; a context manager.

    A thread renews it. When it finds the lease taken by another, or can't renew it, `on_lost` is called once.
    """

    def __init__(self, folder: Path, number: int, state: _State, root: Path, on_lost: Callable[[], None]) -> None:
        self._folder, self._number, self._state, self._root, self._on_lost = folder, number, state, root, on_lost
        self._lost = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._renew_always, name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self.release()
        if kind is KeyboardInterrupt:  # it was the lost lease that interrupted
            self.check()

    @property
    def is_lost(self) -> bool:
        """Whether another may write by now."""
        return bool(self._lost)

    def check(self) -> None:
        """Raise UserError where the lease was lost."""
        if self._lost:
            raise UserError(self._lost)

    def release(self) -> None:
        """Give the lease back; the second time nothing happens."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._thread.join()
        if not self._lost:
            with suppress(Exception):  # this process ends soon, and with it the lease
                self._write(is_released=True)

    def _write(self, *, is_released: bool = False) -> None:
        """Write the file anew. Raises: FileNotFoundError when it is gone."""
        state = self._state
        self._state = _State(state.owner, state.token, state.since, state.beats + 1, is_released)
        path = _path(self._folder, self._number)
        if is_remote(path):
            path.stat()
            path.write_bytes(self._state.to_bytes())
            return
        with path.open("r+b", buffering=0) as file:  # closed, so that NFS sends it off
            file.write(self._state.to_bytes())

    def _renew_always(self) -> None:
        renewed = time.monotonic()
        while not self._ending.wait(HEARTBEAT_S):
            try:
                if max(_numbers(self._folder), default=0) > self._number:
                    self._lose("another run has taken it over, since this one had not been heard of")
                    return
                self._write()
                renewed = time.monotonic()
            except FileNotFoundError:
                self._lose("the folder's lease is gone")
                return
            except Exception as error:
                if not isinstance(error, OSError) and not is_storage(error):
                    raise
                if time.monotonic() - renewed > EXPIRY_S / 2:  # before anybody may take it over
                    reason = store_error(error) or getattr(error, "strerror", None) or error
                    self._lose(f"the lease can't be renewed ({reason})")
                    return

    def _lose(self, reason: str) -> None:
        self._lost = (
            f"output: {self._root} is no longer this run's to write: {reason}; this run has stopped, what it "
            "finished is kept, and the same command goes on from there"
        )
        self._on_lost()


def take(
    folder: Path, root: Path, say: Callable[[str], None] = print, on_lost: Callable[[], None] | None = None
) -> Lease:
    """Return the lease kept in `folder`, for the output folder `root`.

    `say` is told when the owner is on another machine and has to be watched. `on_lost`: interrupts the main thread,
    where it is the one that takes the lease and nothing else is given.

    Raises: UserError when another process holds it.
    """
    state = _State(this_process(), secrets.token_hex(8), datetime.now(UTC).isoformat(timespec="seconds"))
    while True:
        highest = max(_numbers(folder), default=0)
        if highest and not _is_free(_path(folder, highest), root, say):
            continue  # it has changed hands
        if _create(folder, highest + 1, state):
            break
    with suppress(OSError):  # they are in nobody's way; what a store says to it, it says again
        for number in _numbers(folder):
            if number <= highest:
                remove(_path(folder, number))
    return Lease(folder, highest + 1, state, root, on_lost or _interrupter())


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as far as reading tells."""

    host: str
    pid: int
    since: str
    is_alive: bool
    """Its process is there, or a heartbeat was seen."""
    is_here: bool
    """It is this machine's, so that its process was looked for; else heartbeats were watched."""


def look(folder: Path) -> Holder | None:
    """Return who holds the lease kept in `folder`, None where nobody does. Writes nothing.

    Where the owner is on another machine and has not written lately by that file's time, its next heartbeat is
    waited for.
    """
    path, data = _highest(folder)
    state = _state(data) if data else None
    if path is None or state is None or state.is_released:
        return None
    alive = is_alive(state.owner)
    is_here = alive is not None
    return Holder(state.owner.host, state.owner.pid, state.since, alive if alive is not None else _beats(path), is_here)


def _highest(folder: Path) -> tuple[Path | None, bytes | None]:
    try:
        path = _path(folder, max(_numbers(folder), default=0))
    except OSError:
        return None, None
    return path, _read(path)


def _beats(path: Path) -> bool:
    """Return whether a lease's file is written again and again."""
    try:
        if 0 <= time.time() - path.stat().st_mtime < 2 * HEARTBEAT_S:
            return True
        before = _read(path)
        for _ in range(math.ceil((HEARTBEAT_S + 1) / _POLL_S)):
            time.sleep(_POLL_S)
            if _read(path) != before:
                return True
    except OSError:
        pass
    return False


def _create(folder: Path, number: int, state: _State) -> bool:
    """Return whether this process, and no other, has made a number the highest."""
    path = _path(folder, number)
    if is_remote(path):
        if not create(path, state.to_bytes()):
            return False
    else:
        try:
            file = path.open("xb", buffering=0)  # O_EXCL
        except FileExistsError:
            return False
        try:
            with file:
                file.write(state.to_bytes())
        except OSError as error:  # a full disk: an empty file would be watched by whoever comes next
            with suppress(OSError):
                remove(path)
            error.filename = str(path)  # which a write's own doesn't tell
            raise
    # Who slept since it looked may make a number that was used and removed. A higher one is there then, always.
    if max(_numbers(folder), default=0) == number and _read(path) == state.to_bytes():
        return True
    remove(path)
    return False


def _is_free(path: Path, root: Path, say: Callable[[str], None]) -> bool:
    """Return True when a lease was released or its owner is dead, False when its file is gone.

    Raises: UserError when its owner lives.
    """
    before = _read(path)
    num_still = 0
    while before is not None:
        state = _state(before)
        if state is not None:
            if state.is_released:
                return True
            alive = is_alive(state.owner)
            if alive is not None:
                if alive:
                    raise UserError(_refusal(root, state))
                return True
            owner = _name(state)
        else:
            owner = "a process that was killed or ran out of disk space as it began"
        if num_still == _UNREADABLE_FOR if state is None else num_still == 0:
            say(f"{owner} had this output folder; watching for {EXPIRY_S:g} s whether it still runs")
        time.sleep(_POLL_S)
        num_still += 1  # counted, since a clock jumps when a machine wakes up
        now = _read(path)
        if now == before:
            if num_still * _POLL_S >= EXPIRY_S:
                return True
            continue
        after = _state(now) if now else None
        if state is not None and after is not None and not after.is_released:
            raise UserError(_refusal(root, after))
        before, num_still = now, 0
    return False


def _name(state: _State) -> str:
    return f"process {state.owner.pid} on {state.owner.host}"


def _refusal(root: Path, state: _State) -> str:
    return (
        f"output: {root} is being written by {_name(state)} since {state.since}; "
        "wait for it, stop it, or give another output"
    )


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:09}.json"


def _numbers(folder: Path) -> list[int]:
    """Return the numbers in use, as seen twice alike: a listing may miss what comes and goes meanwhile."""
    before: list[int] | None = None
    while True:
        now = sorted(int(p.stem) for p in children(folder) if p.suffix == ".json" and p.stem.isdecimal())
        if now == before:
            return now
        before = now


def _read(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None


def _interrupter() -> Callable[[], None]:
    """Return what interrupts this thread as Ctrl-C does, also where it waits; it must be the main one."""
    ident = threading.get_ident()
    is_main = threading.current_thread() is threading.main_thread()

    def interrupt() -> None:
        if is_main and callable(signal.getsignal(signal.SIGINT)):  # else `check` tells at the next video
            signal.pthread_kill(ident, signal.SIGINT)

    return interrupt
