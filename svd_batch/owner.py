"""Which process something belongs to, and whether that process still lives. Standard library alone.

A process id alone says little: it is used again, every machine has its own, and so has every container.
"""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_SHORT = 4
"""Digits of a machine in the names of temporary folders: containers that share /tmp must not take each other's."""


@dataclass(frozen=True)
class Owner:
    """One process of one machine."""

    host: str
    """The machine's name, for people."""
    machine: str
    """Hex digits: the same for processes that see each other's process ids, another after a reboot."""
    pid: int
    started: str
    """When the process started, in ticks since the machine did; empty where the system doesn't tell."""


def this_process() -> Owner:
    """Return the process that asks."""
    return _process(os.getpid())


@lru_cache(maxsize=1)
def _process(pid: int) -> Owner:
    return Owner(platform.node(), machine(), pid, started(pid))


def machine() -> str:
    """Return 12 hex digits for this boot of this machine, or this container of it."""
    parts = [platform.node()]
    with suppress(OSError):  # not Linux: the name must do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def started(pid: int) -> str:
    """Return when a process started, empty where that can't be found out."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on (proc_pid_stat(5)): state first, start time at 19."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets


def is_alive(owner: Owner) -> bool | None:
    """Return whether a process lives; None where it can't be known from here, since it is another machine's."""
    if owner.machine != machine():
        return None
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's, so it is there
    fields = _stat(owner.pid)
    if not fields:
        return True
    if fields[0] in "ZX":  # killed, and its parent hasn't asked yet
        return False
    return not owner.started or fields[19] == owner.started  # another start: the id was used again


def temporary_prefix() -> str:
    """Return what the names of this process's temporary folders begin with, in a folder that others use, too.

    Short, since Ray's sockets lie below; `is_left_behind` reads it.
    """
    return f"svdb-{os.getpid()}-{machine()[:_SHORT]}-"


def is_left_behind(name: str) -> bool:
    """Return whether a temporary folder of that name is of a process that was this machine's and is dead."""
    match name.split("-", 3):
        case ["svdb", pid, short, _] if pid.isdecimal() and short == machine()[:_SHORT]:
            return is_alive(Owner("", machine(), int(pid), "")) is False
    return False
