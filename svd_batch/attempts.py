"""Attempts at videos that are not settled yet: what tells an item that kills its process from an unlucky one.

A small file a video, written before its generation starts. It is gone as soon as the frames are safely encoded, when it
becomes the file of the pending record, or the item is a failure. What a process leaves behind it has died on.
docs/durability.md has the rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from svd_batch.errors import UserError
from svd_batch.locations import children, is_remote, read_bytes, remove, write_bytes
from svd_batch.owner import is_alive
from svd_batch.store import Store, owner_of

MAX_ATTEMPTS = 3
"""Processes that an item may cost."""


@dataclass(frozen=True)
class Attempts:
    """How often a video was begun without an end."""

    num: int = 0
    error_type: str = ""
    """What condemned the last process; empty where it just died, or is still at it."""
    error_message: str = ""
    is_set_aside: bool = False


class AttemptLog:
    """The attempts of one output folder. Nothing is flushed: a power failure is no item's fault."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.folder = store.attempts_dir
        self._there: set[str] | None = None
        """Videos with a file, where `look` has found out; then no file is asked for that isn't there."""

    def look(self) -> None:
        """Find out which videos there are attempts at: for who alone makes the videos that it asks about next."""
        self._there = set(self._ids())

    def of(self, video_id: str) -> Attempts:
        """Return the attempts at a video; a file that is empty, or was cut off, counts as one."""
        if self._there is not None and video_id not in self._there:
            return Attempts()
        try:
            return Attempts(**json.loads(read_bytes(self._path(video_id))))
        except FileNotFoundError:
            return Attempts()
        except (ValueError, TypeError):
            return Attempts(1)

    def begin(self, video_id: str) -> None:
        """Count one more; the first is a file without content, which takes the least time."""
        attempts = Attempts(self.of(video_id).num + 1)
        self._write(video_id, None if attempts.num == 1 else attempts)

    def blame(self, video_id: str, error_type: str, error_message: str) -> None:
        """Note the error that ends the process in the midst of an attempt."""
        self._write(video_id, replace(self.of(video_id), error_type=error_type, error_message=error_message))

    def set_aside(self, video_id: str, attempts: Attempts) -> None:
        """Note that the video has become a failure; `renew` gives it new attempts."""
        self._write(video_id, replace(attempts, is_set_aside=True))

    def forget(self, video_id: str, leave_to: Path | None = None) -> None:
        """Forget a video's attempts: no process can die on it any more.

        On a disk their file becomes `leave_to`, where that is given: to make a new one takes longer where many were
        just deleted (ext4 passes over the inodes of those of the last five seconds, one by one).
        """
        self.store.check_folder(self.folder)
        path = self._path(video_id)
        if leave_to is None or is_remote(path):
            remove(path)
        else:
            with suppress(FileNotFoundError):
                path.replace(leave_to)
        if self._there is not None:
            self._there.discard(video_id)

    def in_the_making(self) -> dict[str, float]:
        """Return when each video was begun that has no end yet, in seconds since 1970 by the file system's clock."""
        found = {}
        for video_id in self._ids():
            with suppress(OSError):
                if not self.of(video_id).is_set_aside:
                    found[video_id] = self._path(video_id).stat().st_mtime
        return found

    def renew(self) -> None:
        """Forget those that were set aside, so that they are tried again."""
        for video_id in self._ids():
            if self.of(video_id).is_set_aside:
                self.forget(video_id)

    def withdraw(self) -> None:
        """Take back the attempts that nothing ended but the run itself: stopping it is no item's fault."""
        for video_id in self._ids():
            attempts = self.of(video_id)
            if attempts.is_set_aside or attempts.error_type:
                continue
            if attempts.num > 1:
                self._write(video_id, replace(attempts, num=attempts.num - 1))
            else:
                self.forget(video_id)

    def _ids(self) -> list[str]:
        return [path.stem for path in children(self.folder) if path.suffix == ".json"]

    def _path(self, video_id: str) -> Path:
        return self.folder / f"{video_id}.json"

    def _write(self, video_id: str, attempts: Attempts | None) -> None:
        path = self._path(video_id)
        self.store.check_folder(self.folder)
        data = b"" if attempts is None else json.dumps(vars(attempts)).encode()
        try:
            write_bytes(path, data)
        except FileNotFoundError:
            if not self.store.temporary_dir.is_dir():
                raise
            self.folder.mkdir(exist_ok=True)  # a folder of an earlier version
            write_bytes(path, data)
        if self._there is not None:
            self._there.add(video_id)


@contextmanager
def loading(store: Store) -> Iterator[None]:
    """Count this process among those that load the model, for as long as it does.

    Ray replaces a process that dies without end; where it dies of the model that would go on for ever.

    Raises: UserError where MAX_ATTEMPTS processes of this machine have died of it in this run.
    """
    owners = [owner_of(path) for path in store.temporary_dir.glob("*.loading")]
    died = [owner for owner in owners if owner is not None and is_alive(owner) is False]
    if len(died) >= MAX_ATTEMPTS:
        raise UserError(
            f"model: {len(died)} processes ended while they loaded it (crash, kill or out of host memory); give "
            "fewer backend.num_actors, a machine with more memory, or look into OUTPUT/.svd_batch/logs"
        )
    path = store.temporary("loading")
    path.touch()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
