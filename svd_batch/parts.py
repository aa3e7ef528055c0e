"""Records of many videos in few Parquet files: `records/parts/`. docs/durability.md has the steps.

A part never changes under its name. Of several rows of one video the one in the part with the highest number counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from svd_batch.errors import UserError
from svd_batch.id_set import High, IdSet, Low, pack
from svd_batch.locations import children, readable
from svd_batch.record_table import to_records, to_table
from svd_batch.records import VideoRecord

PART_ROWS = 10_000
"""Records that a part gets: so many small files are worth one larger one."""

_NAME = re.compile(r"(\d{6,})(?:-(\d+))?\.parquet")


class Parts:
    """The parts of one output folder: what is in them, by id, is read when it is first asked for, and then kept."""

    def __init__(self, folder: Path, write: Callable[[pa.Table, Path], None], remove: Callable[[Path], None]) -> None:
        self.folder = folder
        self._write, self._remove = write, remove
        self._names: list[str] = []
        self._ids = IdSet()
        self._stale: dict[str, NDArray[np.int64]] = {}
        """Rows of a part that a later part has again."""
        self._last: tuple[str, dict[str, VideoRecord]] = ("", {})

    def paths(self) -> list[Path]:
        """Return the parts, the oldest first; of one that was written anew the last version."""
        versions: dict[int, tuple[int, Path]] = {}
        for path in children(self.folder):
            match = _NAME.fullmatch(path.name)
            if match is not None:
                number, version = int(match[1]), int(match[2] or 0)
                versions[number] = max(versions.get(number, (-1, path)), (version, path))
        return [versions[number][1] for number in sorted(versions)]

    def ids(self) -> IdSet:
        """Return the ids of all videos in parts, as the parts are now."""
        paths = self.paths()
        names = [path.name for path in paths]
        if names == self._names:
            return self._ids
        new = paths[len(self._names) :] if names[: len(self._names)] == self._names else paths
        known = self._ids if len(new) < len(paths) else IdSet()
        high, low = self._read_ids(new)
        if len(known) and known.contains(high, low).any():
            new, known = paths, IdSet()
            high, low = self._read_ids(new)
        num_rows = len(high) + len(known)
        self._ids = known.with_packed(high, low)
        if len(new) == len(paths):
            self._stale = {}
        if len(self._ids) < num_rows:
            self._stale = _stale_rows(new, high, low)
        self._names = names
        return self._ids

    def _read_ids(self, paths: Sequence[Path]) -> tuple[High, Low]:
        found = [_packed_ids(path) for path in paths] or [pack(b"")]
        return np.concatenate([high for high, _ in found]), np.concatenate([low for _, low in found])

    def add(self, records: Sequence[VideoRecord]) -> None:
        """Make a new part of some records durable; it counts from then on."""
        paths = self.paths()
        number = int(_NAME.fullmatch(paths[-1].name)[1]) + 1 if paths else 1  # type: ignore[index]
        self._write(to_table(records), self.folder / f"{number:06}.parquet")

    def read(self, path: Path, columns: Sequence[str] | None = None, *, hidden: Collection[str] = ()) -> pa.Table:
        """Return the rows of a part that count, without those of some hidden videos."""
        wanted = list(dict.fromkeys([*columns, "video_id"])) if columns is not None and hidden else columns
        table = _read(path, wanted)
        drop = np.zeros(table.num_rows, np.bool_)
        drop[self._stale.get(path.name, np.empty(0, np.int64))] = True
        if hidden:
            drop |= pc.is_in(table["video_id"], value_set=pa.array(list(hidden), pa.string())).to_numpy()
        if drop.any():
            table = table.filter(pa.array(~drop))
        return table if columns is None else table.select(columns)

    def find(self, video_id: str) -> VideoRecord | None:
        """Return the record of a video, None where no part has it; neighbours of the last one are found fast."""
        if video_id not in self.ids():
            return None
        if video_id in self._last[1]:
            return self._last[1][video_id]
        paths = self.paths()
        place = next((i for i, path in enumerate(paths) if path.name == self._last[0]), len(paths))
        for i in sorted(range(len(paths)), key=lambda i: abs(i - place)):
            path = paths[i]
            if bool(IdSet(*_packed_ids(path)).contains(*pack(video_id.encode()))[0]):
                records = {record.video_id: record for record in to_records(self.read(path))}
                if video_id in records:
                    self._last = (path.name, records)
                    return records[video_id]
        return None

    def remove(self, video_id: str) -> None:
        """Write every part anew that has a row of a video, without it."""
        if video_id not in self.ids():
            return
        for path in self.paths():
            table = _read(path)
            kept = table.filter(pc.not_equal(table["video_id"], video_id))
            if kept.num_rows < table.num_rows:
                number, version = _NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]
                self._write(kept, self.folder / f"{number}-{int(version or 0) + 1}.parquet")
                self._remove(path)

    def remove_leftovers(self) -> None:
        """Remove versions of parts that were written anew, where a kill has left them."""
        current = set(self.paths())
        for path in children(self.folder):
            if _NAME.fullmatch(path.name) and path not in current:
                self._remove(path)


def _read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        with readable(path) as source, pq.ParquetFile(source) as file:
            return file.read(columns, use_threads=False)  # threads cost more than they bring for so little
    except pa.ArrowException as error:
        raise UserError(f"output: {path} is damaged ({error}); restore it from a copy of the folder") from None


def _packed_ids(path: Path) -> tuple[High, Low]:
    column = _read(path, ["video_id"])["video_id"].combine_chunks()
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not len(column):
        return pack(b"")
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    return pack(np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]])


def _stale_rows(paths: Sequence[Path], high: High, low: Low) -> dict[str, NDArray[np.int64]]:
    """Return for each part the rows that a later one has again; `high` and `low` are the ids of all, in order."""
    order = np.lexsort((low, high))
    same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    repeated = IdSet(high[order][1:][same], low[order][1:][same])
    seen: set[str] = set()
    stale = {}
    for path in reversed(paths):
        texts = _read(path, ["video_id"])["video_id"].to_pylist()
        rows = (
            [i for i, text in enumerate(texts) if text in repeated]
            if repeated.contains(*_packed_ids(path)).any()
            else []
        )
        stale[path.name] = np.array([i for i in rows if texts[i] in seen], np.int64)
        seen |= {texts[i] for i in rows}
    return stale
