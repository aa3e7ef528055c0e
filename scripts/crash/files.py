"""The file layer: Python's ways to change the output folder, each told to a Watch before and after."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from typing import Any

from crash.watch import Watch

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def install(watch: Watch) -> None:
    """Put the layer between this process and its files."""
    opened: dict[int, str] = {}
    real_open, real_os_open, real_write, real_fsync = io.open, os.open, os.write, os.fsync

    class File(io.FileIO):
        """An open file whose writes are told of."""

        def __init__(self, path: Any, mode: str, place: str, opener: Any) -> None:
            super().__init__(path, mode, opener=opener)
            self._place = place

        def write(self, data: Any) -> int:
            watch.before("write", self._place)
            if watch.is_torn("write", self._place):
                whole = memoryview(data).cast("B")
                super().write(whole[: len(whole) // 2])
                watch.die()
                return len(whole) // 2
            num_bytes = super().write(data)
            watch.after("write", self._place)
            return num_bytes

    def open_file(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        place = watch.place(file) if set(mode) & set("wax+") else None
        if place is None:
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        watch.before("open", place)
        raw = File(file, mode.replace("b", "").replace("t", ""), place, opener)
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    def os_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        place = watch.place(path)
        if place is not None and flags & _WRITING:
            watch.before("open", place)
        descriptor = real_os_open(path, flags, *arguments, **options)
        opened.pop(descriptor, None)
        if place is not None:
            opened[descriptor] = place
        return descriptor

    def write(descriptor: Any, data: Any) -> int:
        place = opened.get(descriptor)
        file = None if place is None else os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        if place is None or watch.place(file) != place:  # another file has its number now
            return real_write(descriptor, data)
        watch.before("write", place)
        if watch.is_torn("write", place):
            whole = memoryview(data).cast("B")
            num_bytes = real_write(descriptor, whole[: len(whole) // 2])
            watch.die()
            return num_bytes
        num_bytes = real_write(descriptor, data)
        watch.after("write", place)
        return num_bytes

    def fsync(descriptor: Any) -> None:
        place = opened.get(descriptor)
        if place is not None:
            watch.before("fsync", place)
        real_fsync(descriptor)
        if place is not None:
            watch.after("fsync", place)

    builtins.open = io.open = open_file
    os.open, os.write, os.fsync = os_open, write, fsync  # type: ignore[assignment]
    os.replace = _told(watch, "rename", os.replace, 1)
    os.rename = _told(watch, "rename", os.rename, 1)
    os.mkdir = _told(watch, "mkdir", os.mkdir, 0)
    os.unlink = _told(watch, "unlink", os.unlink, 0)
    os.remove = os.unlink


def _told(watch: Watch, operation: str, real: Callable[..., None], which: int) -> Callable[..., None]:
    """Return a function of os that tells of the path among its first two arguments."""

    def told(*arguments: Any, **options: Any) -> None:
        place = watch.place(arguments[which]) if len(arguments) > which and not options.get("dir_fd") else None
        if place is not None:
            watch.before(operation, place)
        real(*arguments, **options)
        if place is not None:
            watch.after(operation, place)

    return told
