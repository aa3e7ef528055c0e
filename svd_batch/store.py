"""The output folder: its layout, atomic commits, and reading back.

A video is durable before its record, and the record is the commit: `metadata.parquet` and every count come from
the records in `.svd_batch/records/`, never from what a process remembers. A record is a small file of its own until the
holder of the lease puts many together into a part (`parts.py`); a file counts more than a part's row of the same video.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from svd_batch import parts
from svd_batch.errors import STORAGE_ERRNOS, UserError, store_error
from svd_batch.id_set import IdSet, is_packable
from svd_batch.locations import (
    children,
    files_below,
    has_bucket,
    is_file,
    is_remote,
    put,
    read_bytes,
    readable,
    remove,
    scratch,
    write_bytes,
)
from svd_batch.owner import Owner, this_process
from svd_batch.record_table import to_records, to_table
from svd_batch.records import FailureRecord, VideoRecord, from_dict, to_json

INTERNAL = ".svd_batch"

_PROBE_BYTES = _READ_BYTES = 2**16

_LINK_S = 1.0
"""How long a folder that was reached through no symlink is not looked at again: a commit would look ten times."""


class Store:
    """One output folder. Opening it creates nothing; `create` does.

    Where it is in a store, `temporary_dir` and `logs_dir` are folders of this machine: files are made there, and put
    into the store whole.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.internal = root / INTERNAL
        self.records_dir = self.internal / "records"
        self.failures_dir = self.internal / "failures"
        self.pending_dir = self.internal / "pending"
        self.is_remote = is_remote(root)
        self.here = scratch(root) if self.is_remote else self.internal
        """Where this machine keeps what is on its way."""
        self.temporary_dir = self.here / "tmp"
        self.attempts_dir = self.internal / "attempts"
        self.lease_dir = self.internal / "lease"
        self.plan_dir = self.internal / "plan"
        self.logs_dir = self.here / "logs"
        self.shared_logs_dir = self.internal / "logs"
        """Where others find what lies in `logs_dir`."""
        self.run_json = self.internal / "run.json"
        self.metadata = root / "metadata.parquet"
        self.failures_table = root / "failures.parquet"
        self._no_links: dict[str, float] = {}
        """When a folder was last seen to be reached through no symlink."""
        self._failure_shards: set[str] | None = None
        """The folders that failures are in, where `look` has found out; no other is asked for or cleared."""
        self.parts = parts.Parts(self.records_dir / "parts", self.write_table, self._unlink)

    def exists(self) -> bool:
        """Return whether this is an output folder of ours."""
        return is_file(self.run_json)

    def create(self) -> None:
        """Make the folder and what is inside it.

        Raises: UserError when it can't be made or holds other things.
        """
        self.check_ours()
        folders = [self.temporary_dir, self.logs_dir]
        if not self.is_remote:  # a store has no folders, and making one might make a bucket
            folders += [self.records_dir, self.failures_dir, self.pending_dir, self.lease_dir]
            folders += [self.attempts_dir, self.plan_dir, self.root / "videos"]
        try:
            for folder in folders:
                self.check_folder(folder)
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output: {self.root} can't be made: {error.strerror or error}") from None

    def check_ours(self) -> None:
        """Raise UserError when the place is no folder, or one that holds other things than an output of ours.

        Also where it is in a store that isn't there, refuses or can't be reached.
        """
        if self.is_remote:
            self._check_bucket()
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"output: {self.root} is a file; give a folder")
        if self.root.is_dir() and not self.internal.is_dir() and any(self.root.iterdir()):
            raise UserError(f"output: {self.root} is not empty and was not made by svd_batch; give a new folder")

    def _check_bucket(self) -> None:
        try:
            is_there = has_bucket(self.root)
        except Exception as error:
            raise store_error(error) or error from None
        if not is_there:
            raise UserError(f"output: {self.root}: there is no such bucket; make it, or give another")

    def check_no_link(self, path: Path) -> None:
        """Raise UserError when a folder between OUTPUT and `path` is a symlink: nothing is written outside OUTPUT."""
        if not self.is_remote:
            self._check(os.path.dirname(path))  # noqa: PTH120  (Paths would take most of a commit's time)

    def check_folder(self, folder: Path) -> None:
        """Raise UserError when a folder of OUTPUT, or one between OUTPUT and it, is a symlink."""
        if not self.is_remote:
            self._check(str(folder))

    def check_place(self, folder: Path) -> None:
        """Raise UserError when a folder to write to lies in OUTPUT, and it or one on the way to it is a symlink."""
        if not self.is_remote and folder.is_relative_to(self.root):
            self.check_folder(folder)

    def _check(self, asked: str) -> None:
        now = time.monotonic()
        if now - self._no_links.get(asked, -_LINK_S) < _LINK_S:
            return
        root, folder = str(self.root), asked
        while folder != root and folder != (above := os.path.dirname(folder)):  # noqa: PTH120
            if now - self._no_links.get(folder, -_LINK_S) < _LINK_S:
                break  # nor was there a link above it
            if os.path.islink(folder):  # noqa: PTH114
                raise UserError(
                    f"output: {folder} is a symlink to {Path(folder).readlink()}; nothing is written through links "
                    "inside an output folder; put the folder itself there, or give a new output"
                )
            folder = above
        while asked != folder:
            self._no_links[asked] = now
            asked = os.path.dirname(asked)  # noqa: PTH120

    # --- videos and their records ---------------------------------------------------------------------

    def temporary(self, suffix: str) -> Path:
        """Return a new path for a file on its way, unique to this attempt and on the same file system."""
        self.check_folder(self.temporary_dir)
        if self.is_remote:  # this machine's, which may not be the driver's
            self.temporary_dir.mkdir(exist_ok=True)
        return self.temporary_dir / _attempt(suffix)

    def refusal(self, error: BaseException) -> Exception | None:
        """Return what to raise where it was the disk that failed a write, None where it was something else.

        ffmpeg tells in words of its own, so the disk is asked for a little room. To be called before what was half
        written is removed.
        """
        told = store_error(error)
        if told is not None:
            return told
        if isinstance(error, UserError):  # of check_no_link: every video there would fail
            return error
        if not self.temporary_dir.is_dir():
            return UserError(
                f"output: {self.root} is gone, or its disk was unmounted; what was finished there is kept, and the "
                "same command goes on once it is back"
            )
        if not isinstance(error, OSError):
            return None
        if error.errno in STORAGE_ERRNOS:
            return self._named(error)
        path = self.temporary("probe")
        try:
            path.write_bytes(bytes(_PROBE_BYTES))
            flush(path)
        except OSError as refused:
            return self._named(refused) if refused.errno in STORAGE_ERRNOS else None
        finally:
            path.unlink(missing_ok=True)
        return None

    def _named(self, error: OSError) -> OSError:
        """Return an error that tells which folder it is about: a write's own tells no file."""
        error.filename = error.filename or str(self.root)
        return error

    def new_pending(self) -> Path:
        """Return a new path for a record that doesn't count yet, unique to this attempt."""
        self.check_folder(self.pending_dir)
        return self.pending_dir / _attempt("json")

    def commit_video(self, temporary: Path, record: VideoRecord, pending: Path | None = None) -> None:
        """Make a finished, flushed temporary video and its record durable, the video first.

        The record waits in `pending_dir` while the video is moved, so that a kill between the two costs no video:
        `recover` commits it. docs/durability.md has the steps.
        """
        pending = self._write_pending(record, pending)
        try:
            self.place_flushed(temporary, record.file_name)
        except (OSError, UserError):
            with suppress(Exception):
                remove(pending)
            raise
        self.commit_pending(pending, record)

    def _write_pending(self, record: VideoRecord, pending: Path | None = None) -> Path:
        """Write a record to where it doesn't count yet and return its path."""
        pending = pending or self.new_pending()
        try:
            write_bytes(pending, to_json(record).encode(), is_durable=True)
        except OSError:
            with suppress(Exception):
                remove(pending)
            raise
        return pending

    def commit_pending(self, pending: Path, record: VideoRecord) -> None:
        """Move a pending record to where it counts; this is the commit."""
        path = self._record_path(record.video_id)
        self.check_no_link(path)
        try:
            move(pending, path)
        except FileNotFoundError:
            if not self.is_done(record.video_id):  # else the next run has adopted it meanwhile
                raise
        self.clear_failure(record.video_id)

    def place(self, temporary: Path, file_name: str) -> None:
        """Make a finished temporary video durable under its name; it counts once its record is committed."""
        flush(temporary)
        self.place_flushed(temporary, file_name)

    def place_flushed(self, temporary: Path, file_name: str) -> None:
        """Move a video whose bytes are durable to its name."""
        self.check_no_link(self.root / file_name)
        move(temporary, self.root / file_name)

    def commit(self, record: VideoRecord) -> None:
        """Make the record of a placed video durable, in place of an earlier one of the same video."""
        self._write_text(self._record_path(record.video_id), to_json(record))
        self.clear_failure(record.video_id)

    def commit_all(self, records: Sequence[VideoRecord]) -> None:
        """Make the records of many placed videos durable, in a part; for the holder of the lease alone."""
        fitting = [record for record in records if is_packable(record.video_id)]
        if fitting:
            self.parts.add(fitting)
        for record in records:
            if is_packable(record.video_id):
                self.clear_failure(record.video_id)
            else:
                self.commit(record)

    def read_record(self, video_id: str) -> VideoRecord | None:
        """Return the record of a committed video, or None where there is none."""
        record = self.read_single(video_id)
        return self.parts.find(video_id) if record is None else record

    def read_single(self, video_id: str) -> VideoRecord | None:
        """Return the record of a video that has a file of its own, None also where it is in a part."""
        path = self._record_path(video_id)
        try:
            return from_dict(VideoRecord, json.loads(read_bytes(path)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"output: {path} is damaged; delete it, and the next run makes its video again") from None

    def is_done(self, video_id: str) -> bool:
        """Return whether a video is committed."""
        return is_file(self._record_path(video_id)) or video_id in self.parts.ids()

    def done_ids(self) -> IdSet:
        """Return the ids of all committed videos; no record is read."""
        singles = self._single_ids()  # before the parts: what is put into one meanwhile must not be missed
        return self.parts.ids().with_others(singles)

    def _single_ids(self) -> set[str]:
        return {path.stem for path in files_below(self.records_dir, ".json")}

    def num_records(self) -> int:
        """Return how many videos are committed; no record is read."""
        return len(self.done_ids())

    def records(self) -> Iterator[VideoRecord]:
        """Yield every committed record: those with files of their own by id, then those in parts."""
        singles = set()
        for video_id in sorted(self._single_ids()):
            record = self.read_single(video_id)
            if record is not None:
                singles.add(video_id)
                yield record
        hidden = self._in_parts(singles)
        for path in self.parts.paths():
            yield from to_records(self.parts.read(path, hidden=hidden))

    def _in_parts(self, singles: Iterable[str]) -> set[str]:
        """Return which of some videos are in a part, too; to be asked after the files were read.

        What is put into a part meanwhile must not be missed.
        """
        ids = self.parts.ids()
        return {video_id for video_id in singles if video_id in ids}

    def record_sources(self) -> list[Callable[[Sequence[str] | None], pa.Table]]:
        """Return what reads the committed records, each once, in tables of the named columns, or of all (None)."""
        found = (self.read_single(video_id) for video_id in sorted(self._single_ids()))
        singles = {record.video_id: record for record in found if record is not None}
        hidden = self._in_parts(singles)
        table = to_table(singles.values())
        several = [partial(self.parts.read, path, hidden=hidden) for path in self.parts.paths()]
        return [lambda columns: table if columns is None else table.select(columns), *several]

    def put_into_part(self, records: Sequence[VideoRecord]) -> None:
        """Move some committed records from files of their own into a new part; for the holder of the lease alone."""
        fitting = [record for record in records if is_packable(record.video_id)]
        if fitting:
            self.parts.add(fitting)
            for record in fitting:
                self._unlink(self._record_path(record.video_id))

    def tidy_records(self) -> None:
        """Put records with files of their own into parts where they are many; for the holder of the lease alone."""
        self.parts.remove_leftovers()
        paths = [self._record_path(video_id) for video_id in self._single_ids()]
        if len(paths) < parts.PART_ROWS:
            return
        if not self.is_remote:  # a question a file
            paths.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))  # near the manifest's order
        for start in range(0, len(paths), parts.PART_ROWS):
            found = [self.read_single(path.stem) for path in paths[start : start + parts.PART_ROWS]]
            self.put_into_part([record for record in found if record is not None])

    def forget(self, video_id: str) -> None:
        """Drop a record, so that the next run makes the video again."""
        self.parts.remove(video_id)  # first: a part's row may be older than the file, and must not count again
        self._unlink(self._record_path(video_id))

    def _record_path(self, video_id: str) -> Path:
        return self.records_dir / f"{video_id[:2]}/{video_id}.json"

    # --- failures -------------------------------------------------------------------------------------

    def record_failure(self, failure: FailureRecord) -> None:
        """Write one failed item, in place of an earlier failure of the same item."""
        path = self._failure_path(failure.item_id)
        if self._failure_shards is not None:
            self._failure_shards.add(path.parent.name)
        self._write_text(path, to_json(failure))

    def failure(self, item_id: str) -> FailureRecord | None:
        """Return the failure of an image or a video, or None where there is none."""
        try:
            return from_dict(FailureRecord, json.loads(read_bytes(self._failure_path(item_id))))
        except FileNotFoundError:
            return None

    def look_for_failures(self) -> None:
        """Find out where failures are: for who alone makes, from now on, the videos whose failures it asks for."""
        self._failure_shards = {path.name for path in children(self.failures_dir)}

    def clear_failure(self, item_id: str) -> None:
        """Forget a failure: the item has succeeded."""
        if self._may_be_failed(item_id):
            self._unlink(self._failure_path(item_id))

    def is_failed(self, item_id: str) -> bool:
        """Return whether there is a failure of an image or a video."""
        return self._may_be_failed(item_id) and is_file(self._failure_path(item_id))

    def _may_be_failed(self, item_id: str) -> bool:
        shards = self._failure_shards
        return shards is None or (bool(shards) and self._failure_path(item_id).parent.name in shards)

    def failures(self) -> list[FailureRecord]:
        """Return every failure on record, by file name."""
        return list(self.each_failure())

    def each_failure(self) -> Iterator[FailureRecord]:
        """Yield every failure on record, by file name."""
        for path in sorted(files_below(self.failures_dir, ".json"), key=str):
            yield from_dict(FailureRecord, json.loads(read_bytes(path)))

    def _failure_path(self, item_id: str) -> Path:
        name = hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()[:24]  # ids may be any text
        return self.failures_dir / f"{name[:2]}/{name}.json"

    # --- the run --------------------------------------------------------------------------------------

    def read_run(self) -> dict[str, Any]:
        """Return run.json, or an empty mapping for a new folder.

        Raises: UserError when it is damaged.
        """
        try:
            run = json.loads(read_bytes(self.run_json))
            if not isinstance(run, dict):
                raise ValueError
        except FileNotFoundError:
            return {}
        except ValueError:
            raise UserError(f"output: {self.run_json} is damaged; restore it or give a new folder") from None
        return run

    def write_run(self, run: dict[str, Any]) -> None:
        """Write run.json."""
        self._write_text(self.run_json, json.dumps(run, indent=2, sort_keys=True))

    def share_logs(self, since: Mapping[str, int]) -> dict[str, int]:
        """Put the logs of this machine into the store, those that have grown; return their sizes, for the next time.

        Of an output in a folder nothing is to be done.
        """
        sizes = dict(since)
        for path in self.logs_dir.iterdir() if self.is_remote else ():
            if path.is_file() and (num_bytes := path.stat().st_size) != since.get(path.name):
                self.share_log(path)
                sizes[path.name] = num_bytes
        return sizes

    def share_log(self, path: Path) -> None:
        """Put one log of this machine into the store."""
        if self.is_remote:
            put(path, self.shared_logs_dir / path.name)

    def write_config(self, text: str) -> None:
        """Write the resolved configuration as YAML."""
        self._write_text(self.internal / "config.yaml", text)

    def write_table(self, table: pa.Table, path: Path) -> None:
        """Write a table as Parquet, durably and at once."""
        self.check_no_link(path)
        temporary = self.temporary("parquet")
        pq.write_table(table, temporary, compression="zstd")
        flush(temporary)
        move(temporary, path)

    def _unlink(self, path: Path) -> None:
        self.check_no_link(path)
        remove(path)

    def _write_text(self, path: Path, text: str) -> None:
        self.check_no_link(path)
        temporary = self.temporary(path.suffix.lstrip("."))
        write_bytes(temporary, text.encode(), is_durable=True)
        move(temporary, path)


def _attempt(suffix: str) -> str:
    """Return a new file name that tells whose it is; `owner_of` reads it."""
    owner = this_process()
    return f"{owner.machine}-{owner.pid}-{owner.started}-{_token(owner.pid)}{next(_numbers):x}.{suffix}"


_numbers = itertools.count()


@lru_cache(maxsize=1)
def _token(pid: int) -> str:
    """Return what tells a process from an earlier one of the same id, where the system doesn't say when it started."""
    return secrets.token_hex(8)


def owner_of(path: Path) -> Owner | None:
    """Return the process that made a temporary or pending file, None where its name doesn't tell."""
    match path.stem.split("-"):
        case [machine, pid, started, _] if pid.isdecimal():
            return Owner("", machine, int(pid), started)
    return None


def read_table(path: Path) -> pa.Table:
    """Return a Parquet file as a table."""
    with readable(path) as source:
        return pq.read_table(source)


def flush(path: Path) -> None:
    """Make a file's bytes (or a folder's entries) durable; a store's are, once it has answered."""
    if is_remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(temporary: Path, path: Path) -> None:
    """Bring a flushed file to its place, durably; what was there is replaced at once.

    On a file system by a rename. In a store the file is written anew there, and then removed where it was.
    """
    if is_remote(path):
        if is_remote(temporary):
            path.write_bytes(read_bytes(temporary))
        else:
            put(temporary, path)
        remove(temporary)
        return
    try:
        os.replace(temporary, path)  # noqa: PTH105  (Path's own makes a Path of its target anew)
    except FileNotFoundError:  # the folder is lacking, or else what is to be moved, and then it is told here
        path.parent.mkdir(parents=True, exist_ok=True)
        flush(path.parent.parent)
        temporary.replace(path)
    flush(path.parent)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_and_hash(path: Path) -> tuple[str, int]:
    """Make the bytes of a file of this machine durable; return its SHA-256 and size: both in one opening."""
    digest, num_bytes = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while part := os.read(descriptor, _READ_BYTES):
            digest.update(part)
            num_bytes += len(part)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest(), num_bytes
