"""Whether a finished dataset is whole: every row has its video, unchanged and playable. Loads no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from svd_batch.errors import UserError
from svd_batch.locations import files_below, is_remote, local_copy
from svd_batch.records import VideoRecord, from_dict
from svd_batch.store import Store, file_sha256, read_table
from svd_batch.video import probe


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset."""

    video_id: str
    reason: str
    is_finished: bool = False
    """The video is committed and only the table lacks it: nothing to forget."""


def problems(root: Path) -> Iterator[Problem]:
    """Yield what is wrong with an output folder, video by video; nothing when it is whole.

    Raises: UserError when `root` is no output folder.
    """
    store = Store(root)
    if not store.exists() or not store.metadata.is_file():
        raise UserError(f"verify: {root} is not an output folder of svd_batch with a metadata.parquet")
    try:
        rows = [from_dict(VideoRecord, row) for row in read_table(store.metadata).to_pylist()]
    except (pa.ArrowException, TypeError):
        raise UserError(f"verify: {store.metadata} is damaged; the same run command writes it anew") from None
    for video_id, count in Counter(row.video_id for row in rows).items():
        if count > 1:
            yield Problem(video_id, f"is in metadata.parquet {count} times")
    with ThreadPoolExecutor() as pool:
        for row, reason in zip(rows, pool.map(lambda row: _problem(root, row), rows), strict=True):
            if reason:
                yield Problem(row.video_id, reason)
    known = {row.file_name for row in rows}
    done = store.done_ids()
    for path in sorted(_files(root / "videos"), key=str):
        name = path.relative_to(root).as_posix()
        if name not in known and path.is_file():
            finished = path.stem in done
            hint = "; it is finished, and the same run command adds it" if finished else ""
            yield Problem(path.stem, f"{name} has no row in metadata.parquet{hint}", finished)


def _files(folder: Path) -> Iterator[Path]:
    return files_below(folder, "") if is_remote(folder) else folder.rglob("*")


def _problem(root: Path, row: VideoRecord) -> str | None:
    path = root / row.file_name
    if not path.is_file():
        return f"{row.file_name} is missing"
    if path.stat().st_size != row.num_bytes:
        return f"{row.file_name} has {path.stat().st_size} bytes; the table says {row.num_bytes}"
    with local_copy(path) as copy:
        if file_sha256(copy) != row.video_sha256:
            return f"{row.file_name} has another sha256 than the table says"
        try:
            found = probe(copy)
        except OSError as error:
            return str(error)
    if (found.num_frames, found.height, found.width) != (row.num_frames, row.height, row.width):
        return (
            f"{row.file_name} has {found.num_frames} frames of {found.width}x{found.height}; "
            f"the table says {row.num_frames} of {row.width}x{row.height}"
        )
    return None
