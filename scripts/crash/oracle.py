"""What must be true of an output folder after a kill, and after the run that finished it. Text of each violation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from svd_batch.errors import UserError
from svd_batch.records import VideoRecord, from_dict
from svd_batch.store import Store, file_sha256
from svd_batch.video import probe

TOP = {"metadata.parquet", "failures.parquet", "README.md", "report.html", "videos", ".svd_batch"}
INSIDE = {
    "run.json",
    "config.yaml",
    "records",
    "failures",
    "pending",
    "tmp",
    "attempts",
    "lease",
    "plan",
    "logs",
    "posters",
}


@dataclass(frozen=True)
class Snapshot:
    """What was finished at one moment."""

    time: float
    committed: Mapping[str, str]
    """created_at of each committed video."""
    adoptable: frozenset[str]
    """Videos in their places whose records are pending."""


def take_snapshot(output: Path, now: float) -> Snapshot:
    """Return what is finished; other processes may be at work."""
    store = Store(output)
    committed = {record.video_id: record.created_at for record in store.records()}
    adoptable = set()
    for path in store.pending_dir.glob("*"):
        try:
            record = from_dict(VideoRecord, json.loads(path.read_text(encoding="utf-8")))
            if file_sha256(output / record.file_name) == record.video_sha256:
                adoptable.add(record.video_id)
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return Snapshot(now, committed, frozenset(adoptable - set(committed)))


def at_any_moment(output: Path) -> Iterator[str]:
    """Yield what is wrong with a folder whose run may have been killed at this moment."""
    path = output / "metadata.parquet"
    if path.exists():
        try:
            rows = pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            yield f"metadata.parquet can't be read: {error}"
            return
        yield from _twice(rows)
        for row in rows:
            if not (output / row["file_name"]).is_file():
                yield f"{row['file_name']} has a row and is not there"
    try:
        for record in Store(output).records():
            video = output / record.file_name
            if not video.is_file() or video.stat().st_size != record.num_bytes:
                yield f"{record.video_id} has a record and no whole file"
    except (UserError, OSError) as error:
        yield f"a record can't be read: {error}"


def when_finished(output: Path, expected: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with a folder whose job is done; `expected` has the sha256 of each planned video."""
    try:
        rows = pq.read_table(output / "metadata.parquet").to_pylist()
        num_failures = pq.read_table(output / "failures.parquet").num_rows
    except (pa.ArrowException, OSError) as error:
        yield f"a table can't be read: {error}"
        return
    yield from _twice(rows)
    found = {row["video_id"] for row in rows}
    for video_id in sorted(expected.keys() - found):
        yield f"{video_id} is planned and not in metadata.parquet"
    for video_id in sorted(found - expected.keys()):
        yield f"{video_id} is in metadata.parquet and not planned"
    if num_failures or list(Store(output).failures_dir.glob("*/*")):
        yield f"failures: {num_failures} rows, {len(list(Store(output).failures_dir.glob('*/*')))} files; 0 expected"
    for row in rows:
        yield from _video(output, row, expected.get(row["video_id"]))
    yield from _records(output, rows)
    yield from _strays(output, {row["file_name"] for row in rows})


def _twice(rows: list[dict[str, Any]]) -> Iterator[str]:
    for video_id, count in Counter(row["video_id"] for row in rows).items():
        if count > 1:
            yield f"{video_id} is in metadata.parquet {count} times"


def _video(output: Path, row: dict[str, Any], expected: str | None) -> Iterator[str]:
    path = output / row["file_name"]
    if not path.is_file():
        yield f"{row['file_name']} has a row and is not there"
        return
    sha256 = file_sha256(path)
    if sha256 != row["video_sha256"] or path.stat().st_size != row["num_bytes"]:
        yield f"{row['file_name']} is not the file that its row describes"
    if expected is not None and sha256 != expected:
        yield f"{row['file_name']} differs from the uninterrupted run's"
    try:
        num_frames = probe(path).num_frames
    except OSError as error:
        yield f"{row['file_name']} is not decodable: {error}"
        return
    if num_frames != row["num_frames"]:
        yield f"{row['file_name']} has {num_frames} frames, its row says {row['num_frames']}"


def _records(output: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    done = Store(output).done_ids()
    if done != {row["video_id"] for row in rows}:
        yield f"totals: {len(done)} records and {len(rows)} rows don't agree"


def _strays(output: Path, file_names: set[str]) -> Iterator[str]:
    store = Store(output)
    for folder in (store.temporary_dir, store.pending_dir, store.attempts_dir):
        for path in sorted(folder.iterdir()):
            yield f"{path.relative_to(output)} was left behind"
    for path in sorted((output / "videos").rglob("*")):
        if path.is_file() and path.relative_to(output).as_posix() not in file_names:
            yield f"{path.relative_to(output)} has no row"
    for folder, known in ((output, TOP), (store.internal, INSIDE)):
        for path in sorted(folder.iterdir()):
            if path.name not in known:
                yield f"{path.relative_to(output)} does not belong there"
    for path in sorted((store.internal / "posters").rglob("*")):
        if path.is_file() and f"videos/{path.parent.name}/{path.stem}.mp4" not in file_names:
            yield f"{path.relative_to(output)} belongs to no video"
    leases = sorted(store.lease_dir.iterdir())
    if len(leases) != 1:
        yield f"lease: {len(leases)} files, 1 expected"


def never_twice(snapshots: list[Snapshot], final: Mapping[str, str], begun: Mapping[str, list[float]]) -> Iterator[str]:
    """Yield each finished video that was made again; `final` has created_at, `begun` when each video was begun."""
    for snapshot in snapshots:
        for video_id, created_at in snapshot.committed.items():
            if final.get(video_id) != created_at:
                yield f"{video_id} was committed at {created_at} and is now of {final.get(video_id)}"
        for video_id in {*snapshot.committed, *snapshot.adoptable}:
            if any(moment > snapshot.time for moment in begun.get(video_id, ())):
                yield f"{video_id} was finished and has been generated again"
