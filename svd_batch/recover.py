"""The right to write into an output folder, and what a killed run left there put in order. docs/durability.md."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from svd_batch.console import Console
from svd_batch.lease import Lease, take
from svd_batch.locations import children, is_remote, read_bytes, remove
from svd_batch.owner import is_alive
from svd_batch.records import VideoRecord, from_dict
from svd_batch.store import Store, file_sha256, owner_of

SHARE_S = 20.0
"""How often logs that have grown are put into a store."""

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
        store.tidy_records()
        with sharing_logs(store):
            yield lease


@contextmanager
def sharing_logs(store: Store) -> Iterator[None]:
    """Put what is logged on this machine into a store, again and again as long as this is open, and at the end."""
    if not store.is_remote:
        yield
        return
    ending = threading.Event()

    def share() -> None:
        sizes: dict[str, int] = {}
        while True:
            last = ending.wait(SHARE_S)
            with suppress(Exception):  # what the store refuses, whoever writes videos there tells of
                sizes = store.share_logs(sizes)
            if last:
                return

    thread = threading.Thread(target=share, name="logs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def recover(store: Store) -> int:
    """Commit the pending records whose videos are whole, remove what dead processes left; return how many were adopted.

    For the holder of the lease alone.
    """
    for folder in (store.pending_dir, store.temporary_dir):
        store.check_folder(folder)
    now = max((path.stat().st_mtime for path in children(store.lease_dir)), default=0.0)
    num_adopted = 0
    for pending in sorted(children(store.pending_dir), key=str):
        record = None if _maker_lives(pending) else _read(pending)
        if record is not None and not store.is_done(record.video_id) and _is_whole(store, record):
            store.commit_pending(pending, record)
            store.clear_failure(record.image_id)
            num_adopted += 1
    for failure in store.each_failure():
        if failure.video_id is not None and store.is_done(failure.video_id):
            store.clear_failure(failure.video_id)
    for folder in (store.pending_dir, store.temporary_dir):
        for path in children(folder):
            if _is_left_behind(path, now):
                remove(path)
    return num_adopted


def _maker_lives(path: Path) -> bool | None:
    """Return whether the maker of a temporary or pending file lives; None where nobody can know from here."""
    owner = owner_of(path)
    return None if owner is None else is_alive(owner)


def _is_left_behind(path: Path, now: float) -> bool:
    """Return whether a file's maker is dead, or on another machine and long silent."""
    alive = _maker_lives(path)
    try:
        found = path.stat() if is_remote(path) else path.lstat()  # a link may lead nowhere
        return alive is False or (alive is None and now - found.st_mtime > FOREIGN_S)
    except FileNotFoundError:  # its maker has just moved it
        return False


def _read(pending: Path) -> VideoRecord | None:
    """Return a pending record, None for one that was being written when its process died."""
    try:
        return from_dict(VideoRecord, json.loads(read_bytes(pending)))
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
