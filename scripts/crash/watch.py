"""Kills its own process at a step, or lets a file operation fail, as the run's settings say."""

from __future__ import annotations

import errno
import os
import signal
import threading

from crash import events
from crash.settings import Kill, Settings
from crash.steps import AFTER, BEFORE, BY_NAME, HALF

_open = os.open  # as it was before the layer
FAULTY = ("open", "write", "fsync", "rename", "mkdir", "encode")


class Watch:
    """Told of each operation on the output folder, before and after."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.num_operations = 0
        self._num_reached = 0
        self._is_full = False
        self._lock = threading.Lock()

    def place(self, path: object) -> str | None:
        """Return the path inside the output folder; None for one that lies elsewhere."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        root = self.settings.output
        return text[len(root) + 1 :] if text.startswith(root + os.sep) else None

    def before(self, operation: str, place: str) -> None:
        """Raises: OSError where this operation is to fail."""
        self._fail(operation, place)
        self._reach(operation, place, BEFORE)

    def disk_is_full(self) -> None:
        """Let every later operation of this process fail too, as it does where ffmpeg finds no room."""
        self._is_full = True

    def after(self, operation: str, place: str) -> None:
        """Told when an operation has succeeded."""
        if operation == "rename" and place.startswith(".svd_batch/records/") and place.endswith(".json"):
            events.note(self.settings.events, "commit", place.rpartition("/")[2].removesuffix(".json"))
        self._reach(operation, place, AFTER)

    def is_torn(self, operation: str, place: str) -> bool:
        """Return whether to write half of the bytes and then call `die`."""
        kill = self.settings.kill
        return kill is not None and self._is_reached(kill, operation, place, HALF)

    def die(self) -> None:
        """End this process as SIGKILL does, the first time in all processes of the run."""
        assert self.settings.kill is not None
        if _make(self.settings.kill.flag):
            events.note(self.settings.events, "kill", self.settings.kill.step)
            os.kill(os.getpid(), signal.SIGKILL)

    def _reach(self, operation: str, place: str, when: str) -> None:
        kill = self.settings.kill
        if kill is not None and self._is_reached(kill, operation, place, when):
            self.die()

    def _is_reached(self, kill: Kill, operation: str, place: str, when: str) -> bool:
        is_main = threading.current_thread() is threading.main_thread()
        step = BY_NAME[kill.step]
        if not step.matches(operation, place, when, is_main_thread=is_main):
            return False
        with self._lock:
            self._num_reached += 1
            return self._num_reached == kill.count + step.skip

    def _fail(self, operation: str, place: str) -> None:
        if operation not in FAULTY:
            return
        with self._lock:
            self.num_operations += 1
            number = self.num_operations
        fault = self.settings.fault
        if fault is None or number < fault.first:
            return
        if self._is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._whole(place))
        if number > fault.first and not fault.stays:
            return
        if _make(fault.flag):
            events.note(self.settings.events, "fault", f"{fault.error} at {operation} of {place}")
        elif not fault.stays:  # another process of this run has had it
            return
        code = getattr(errno, fault.error)
        raise OSError(code, os.strerror(code), self._whole(place))

    def _whole(self, place: str) -> str:
        return self.settings.output + os.sep + place


def _make(flag: str) -> bool:
    """Return whether this call, and no other, has made a file."""
    try:
        os.close(_open(flag, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True
