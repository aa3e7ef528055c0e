"""The right to write into an output folder, and what a killed run left there put in order. docs/durability.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from svd_batch.console import Console
from svd_batch.lease import Lease, take
from svd_batch.owner import is_alive
from svd_batch.records import VideoRecord, from_dict
from svd_batch.store import Store, file_sha256, owner_of

FOREIGN_S = 3600.0
"""How old a temporary file of another machine must be to count as left behind, by the file system's own clock."""


@contextmanager
def writing(store: Store, console: Console) -> Iterator[Lease]:
    """Yield the lease of an output folder, made where there is none, after tidying up behind killed runs.

    Raises: UserError when another process writes there, or when the folder can't be made.
    """
    store.create()
    with take(store.lease_dir, store.root, console.say) as lease:
        num_adopted = recover(store)
        if num_adopted:
            videos = "1 video" if num_adopted == 1 else f"{num_adopted} videos"
            console.say(f"adopted: {videos} that a killed run had finished but not recorded")
        yield lease


def recover(store: Store) -> int:
    """Commit the pending records whose videos are whole, remove what dead processes left; return how many counted.

    For the holder of the lease alone.
    """
    num_adopted = 0
    for pending in _left_behind(store, store.pending_dir):
        record = _read(pending)
        if record is not None and not store.is_done(record.video_id) and _is_whole(store, record):
            store.commit_pending(pending, record)
            num_adopted += 1
        else:
            pending.unlink(missing_ok=True)
    for temporary in _left_behind(store, store.temporary_dir):
        temporary.unlink(missing_ok=True)
    return num_adopted


def _left_behind(store: Store, folder: Path) -> list[Path]:
    """Return the files of a folder whose makers are dead, or on another machine and long silent."""
    store.check_no_link(folder / "any")
    now = max((path.stat().st_mtime for path in store.lease_dir.iterdir()), default=0.0)
    found = []
    for path in sorted(folder.iterdir()):
        owner = owner_of(path)
        alive = None if owner is None else is_alive(owner)
        with suppress(FileNotFoundError):  # its maker has just moved it
            if alive is False or (alive is None and now - path.lstat().st_mtime > FOREIGN_S):
                found.append(path)
    return found


def _read(pending: Path) -> VideoRecord | None:
    """Return a pending record, None for one that was being written when its process died."""
    try:
        return from_dict(VideoRecord, json.loads(pending.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError, FileNotFoundError):
        return None


def _is_whole(store: Store, record: VideoRecord) -> bool:
    """Return whether a record's video is in its place, byte for byte the one that was checked before it was moved."""
    path = store.root / record.file_name
    store.check_no_link(path)
    try:
        return path.stat().st_size == record.num_bytes and file_sha256(path) == record.video_sha256
    except FileNotFoundError:
        return False
