"""Records to the dataset that people open: metadata.parquet, failures.parquet and the card.

All are written beside and renamed, so that each is whole at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from svd_batch.config import ModelConfig
from svd_batch.errors import UserError
from svd_batch.images import one_line
from svd_batch.metrics import METRICS
from svd_batch.record_table import complete, record_schema, to_table
from svd_batch.records import CELL_FIELDS, SCORE_COLUMNS, FailureRecord, VideoRecord
from svd_batch.store import Store, flush, move, read_table

ROW_GROUP = 100_000
"""Rows of metadata.parquet that are sorted and written at once: what DuckDB likes to read at once, too."""

_MOST_OPEN = 32
"""Tables of records that are kept in memory while their pictures' turn comes."""


@dataclass(frozen=True)
class Totals:
    """What metadata.parquet holds."""

    num_videos: int = 0
    num_images: int = 0
    """Pictures with a video."""
    num_bytes: int = 0
    """Of the videos' files."""


def save_images(store: Store, carried: pa.Table) -> None:
    """Keep the carried columns of this manifest, and of earlier manifests for images that this one lacks.

    Raises: UserError when a column has changed its type.
    """
    path = store.plan_dir / "images.parquet"
    if path.exists():
        earlier = read_table(path)
        gone = pc.invert(pc.is_in(earlier["image_id"], value_set=carried["image_id"]))
        try:
            carried = pa.concat_tables([carried, earlier.filter(gone)], promote_options="permissive")
        except pa.ArrowException as error:
            raise UserError(
                f"manifest: a column has another type than in this output's earlier manifest: {one_line(error)}"
            ) from None
    store.write_table(carried, path)


def _images(store: Store) -> pa.Table:
    path = store.plan_dir / "images.parquet"
    return read_table(path) if path.exists() else pa.table({"image_id": pa.array([], pa.string())})


def save_scores(store: Store, scores: pa.Table) -> None:
    """Keep the columns video_id, refine_metric and refine_score, in place of earlier ones of the same videos."""
    path = store.plan_dir / "scores.parquet"
    if path.exists():
        earlier = read_table(path)
        gone = pc.invert(pc.is_in(earlier["video_id"], value_set=scores["video_id"]))
        scores = pa.concat_tables([scores, earlier.filter(gone)])
    store.write_table(scores, path)


def compact(store: Store) -> Totals:
    """Write metadata.parquet and failures.parquet from the records, row group by row group; return what is there."""
    rows = Rows(store)
    num_bytes = 0
    with _writer(store, store.metadata) as write:
        for table in rows.tables():
            num_bytes += pc.sum(table["num_bytes"]).as_py() or 0
            write(table)
    with _writer(store, store.failures_table) as write:
        for table in _failure_tables(store):
            write(table)
    return Totals(rows.num_videos, rows.num_images, num_bytes)


@contextmanager
def _writer(store: Store, path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Yield what adds a row group to a new Parquet file; the file takes its place at the end, whole."""
    store.check_no_link(path)
    temporary = store.temporary("parquet")
    with ExitStack() as stack:
        file = stack.enter_context(temporary.open("wb"))
        writers: list[pq.ParquetWriter] = []

        def write(table: pa.Table) -> None:
            if not writers:
                writers.append(stack.enter_context(pq.ParquetWriter(file, table.schema, compression="zstd")))
            writers[0].write_table(table, row_group_size=max(1, table.num_rows))

        yield write
    flush(temporary)
    move(temporary, path)


def tables(store: Store) -> tuple[pa.Table, pa.Table]:
    """Return metadata.parquet and failures.parquet as the records have them now; writes nothing."""
    return pa.concat_tables(Rows(store).tables()), failures(store)


def failures(store: Store) -> pa.Table:
    """Return failures.parquet as the records have it now."""
    return pa.concat_tables(_failure_tables(store))


class Rows:
    """The rows of metadata.parquet: videos in manifest order, then by cell and replicate; carried columns follow ours.

    They come in windows of whole pictures, so that never more than some of them are in memory. Records were put into
    parts about as they were made, which is manifest order, so a window needs few parts.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._images = _images(store)
        self._num_known = self._images.num_rows
        self._position = {image_id: i for i, image_id in enumerate(self._images["image_id"].to_pylist())}
        self._sources = store.record_sources()
        found = [self._counted(read(["image_id"])["image_id"]) for read in self._sources]
        unknown = sorted(set().union(*(ids for ids, _ in found)) - self._position.keys())
        self._position |= {image_id: self._num_known + i for i, image_id in enumerate(unknown)}
        counts = np.zeros(len(self._position) + 1, np.int64)
        for ids, num_rows in found:
            counts[self._positions(ids)] += num_rows
        self._window = (np.cumsum(counts) - counts) // ROW_GROUP
        """For each picture the window that its rows are in."""
        self._last = [max((int(self._window[i]) for i in self._positions(ids)), default=-1) for ids, _ in found]
        self._first = [min((int(self._window[i]) for i in self._positions(ids)), default=0) for ids, _ in found]
        self._open: dict[int, tuple[pa.Table, NDArray[np.int64]]] = {}
        self.num_videos = int(counts.sum())
        self.num_images = int((counts > 0).sum())

    @staticmethod
    def _encoded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
        """Return the different values of a column, and for each row which of them it has."""
        encoded = column.combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)

    @classmethod
    def _counted(cls, column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
        """Return the different values of a column, and how often each is there."""
        values, codes = cls._encoded(column)
        return values, np.bincount(codes, minlength=len(values))

    def _positions(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        return np.fromiter((self._position[i] for i in image_ids), np.int64, len(image_ids))

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows in order, in tables of about ROW_GROUP; one table without rows where there are none."""
        for window in range(max(self._last, default=-1) + 1) or [0]:
            yield self._table(window)

    def _table(self, window: int) -> pa.Table:
        parts, positions = [], []
        for number in range(len(self._sources)):
            if self._first[number] <= window <= self._last[number]:
                table, position = self._read(number)
                is_here = self._window[position] == window
                parts.append(table.filter(pa.array(is_here)))
                positions.append(position[is_here])
            if self._last[number] <= window:
                self._open.pop(number, None)
        table = pa.concat_tables(parts, promote_options="default") if parts else to_table([])
        position = np.concatenate(positions) if positions else np.empty(0, np.int64)
        order = pc.sort_indices(
            complete(table).append_column("", pa.array(position)),
            sort_keys=[(name, "ascending") for name in ("", *CELL_FIELDS, "replicate", "seed")],
        )
        table = _with_scores(self.store, _as_rows(table.take(order)))
        return self._with_carried(table, position[order.to_numpy()])

    def _read(self, number: int) -> tuple[pa.Table, NDArray[np.int64]]:
        """Return a source's rows with their pictures' positions; few sources stay in memory."""
        if number not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open)))
            table = self._sources[number](None)
            ids, codes = self._encoded(table["image_id"])
            self._open[number] = (table, self._positions(ids)[codes])
        return self._open[number]

    def _with_carried(self, table: pa.Table, position: NDArray[np.int64]) -> pa.Table:
        known = position[position < self._num_known]
        first = int(known.min()) if len(known) else 0
        last = int(known.max()) if len(known) else -1
        images = self._images.slice(first, last - first + 1)
        indices = pa.array(position - first, mask=position >= self._num_known)
        carried = images.drop_columns("image_id").take(indices)
        names = [_free_name(name, table, self._images) for name in carried.column_names]
        return _beside(table, carried.rename_columns(names))


def _as_rows(table: pa.Table) -> pa.Table:
    """Return records as rows: moments as UTC timestamps, and last a column for each metric that there is."""
    table = complete(table)
    own = [name for name in record_schema(VideoRecord).names if name != "metrics"]
    columns = {name: table[name] for name in own}
    columns |= {name: _moments(table[name]) for name in ("started_at", "created_at")}
    for metric in METRICS.values():
        kind = pa.bool_() if metric.is_flag else pa.float64()
        has = metric.name in table.column_names
        columns[metric.name] = table[metric.name].cast(kind) if has else pa.nulls(table.num_rows, kind)
    return pa.table(columns)


def _moments(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return ISO 8601 texts as UTC timestamps."""
    kind = pa.timestamp("ms", "UTC")
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:  # another number of decimals
        return pa.chunked_array([pa.array([datetime.fromisoformat(text) for text in column.to_pylist()], kind)])


def _with_scores(store: Store, table: pa.Table) -> pa.Table:
    """Return the table with the scores that `refine` gave; as it is where there was none."""
    path = store.plan_dir / "scores.parquet"
    if not path.exists():
        return table
    scores = read_table(path)
    indices = pc.index_in(table["video_id"], value_set=scores["video_id"])
    for name in SCORE_COLUMNS:
        table = table.append_column(name, scores[name].take(indices))
    return table


def _beside(left: pa.Table, right: pa.Table) -> pa.Table:
    """Return two tables of as many rows as one."""
    return pa.table([*left.columns, *right.columns], schema=pa.schema([*left.schema, *right.schema]))


def _failure_tables(store: Store) -> Iterator[pa.Table]:
    """Yield the rows of failures.parquet, in tables of at most ROW_GROUP; one without rows where there are none."""
    remaining = store.each_failure()
    some = list(islice(remaining, ROW_GROUP))
    while True:
        table = to_table(some, FailureRecord)
        place = table.schema.get_field_index("created_at")
        yield table.set_column(place, "created_at", _moments(table["created_at"]))
        some = list(islice(remaining, ROW_GROUP))
        if not some:
            return


def _free_name(name: str, table: pa.Table, images: pa.Table) -> str:
    """Return the name of a carried column, another where it became ours after the column was first carried."""
    free = name
    while free in table.column_names or (free != name and free in images.column_names):
        free = f"source_{free}"
    return free


def read_failures(store: Store) -> list[dict[str, Any]]:
    """Return failures.parquet as rows, or none where there is no table."""
    return read_table(store.failures_table).to_pylist() if store.failures_table.exists() else []


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path:
    - metadata.parquet
    - videos/**
license: {license}
tags:
- video
- stable-video-diffusion
- svd_batch
---

# {name}

{num_videos} videos of {num_images} pictures, made by svd_batch with `{model_id}`
(revision `{revision}`): {num_frames} frames of {width}x{height} pixels each.
The weights' licence is {license}{license_note}; the pictures' licences are their owners'.

`metadata.parquet` has one row a video, with every parameter and the seed that reproduces it with stock
diffusers. `failures.parquet` has one row a failed item.

```python
from datasets import load_dataset

dataset = load_dataset("{folder}", split="train")  # reading frames needs torchcodec
```
"""


def write_card(store: Store, model: ModelConfig, revision: str, num_videos: int, num_images: int) -> None:
    """Write README.md, the dataset card that tells Hugging Face datasets where table and videos are."""
    local = Path(model.id).is_absolute()
    note = "" if model.license != "other" or local else f", see https://huggingface.co/{model.id}"
    text = CARD.format(
        name=store.root.resolve().name,
        folder=store.root.resolve().name,
        num_videos=num_videos,
        num_images=num_images,
        model_id=model.id if "/" not in model.id or not Path(model.id).is_absolute() else Path(model.id).name,
        revision=revision,
        num_frames=model.num_frames,
        width=model.width,
        height=model.height,
        license=json.dumps(model.license),
        license_note=note,
    )
    path = store.temporary("md")
    path.write_text(text, encoding="utf-8")
    flush(path)
    move(path, store.root / "README.md")
