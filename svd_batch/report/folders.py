"""Output folders to one table: a row a video, with the folder as one more column. Knows no HTML."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svd_batch import dataset
from svd_batch.errors import UserError, store_error
from svd_batch.locations import files_below, is_remote, readable, signed
from svd_batch.records import CELL_FIELDS, EXACT
from svd_batch.store import Store, read_table

OUTPUT = "output"
"""The column, and the axis, that says from which folder a video is."""
SIGNED_S = 7 * 24 * 3600
"""How long links to clips in a store work from a page that lies elsewhere."""
MOST_ROWS = 200_000
"""Videos of a folder that a page is made from; of larger ones it takes whole pictures, evenly over the table."""
_NEEDED = ("file_name", "video_id", "image_id", "seed", "replicate", "model_id", "num_frames", "width", "height")


@dataclass(frozen=True)
class Folder:
    """One output folder as it was when it was read."""

    store: Store
    name: str
    """Unique among the folders of a page."""
    table: pa.Table
    failures: pa.Table
    num_videos: int
    """In the folder; the table may have fewer."""

    def href(self, page: Path) -> str:
        """Return the URL of the folder relative to a page, percent-encoded: empty or with a slash at its end.

        Of a folder in a store that the page isn't in: its address, by which `signed` makes links that work.

        Raises: UserError where a page in a store is to show a folder of this machine.
        """
        if self.store.is_remote and not self.is_around(page):
            return f"{self.store.root}/"
        if is_remote(page) and not self.store.is_remote:
            raise UserError(f"report: a page in a store can't show {self.store.root}; give a local file by -o")
        relative = os.path.relpath(str(self.store.root.resolve()), str(page.resolve().parent))
        return "" if relative == "." else quote(Path(relative).as_posix()) + "/"

    def is_around(self, page: Path) -> bool:
        """Return whether a page lies in the folder, or in the same store."""
        parts = (str(self.store.root).split("/")[:3], str(page).split("/")[:3])
        return parts[0] == parts[1] if is_remote(page) and self.store.is_remote else not self.store.is_remote

    def files(self, names: Sequence[str]) -> list[bool]:
        """Return which files below the folder are there."""
        if not self.store.is_remote:
            return [(self.store.root / name).is_file() for name in names]
        there = {str(path) for path in files_below(self.store.root / "videos", "")}
        return [str(self.store.root / name) in there for name in names]

    def signed(self, name: str) -> str:
        """Return an address of a file by which anybody may read it for a week, the longest that S3 signs for.

        Raises: UserError where the store signs none.
        """
        url = signed(self.store.root / name, SIGNED_S)
        if url is None:
            raise UserError(
                f"report: the store of {self.store.root} signs no links; leave -o out, so that the page lies beside "
                "its clips, or give --embed"
            )
        return url


@dataclass(frozen=True)
class Sweep:
    """All videos of all folders: what every section of the page is made from."""

    folders: tuple[Folder, ...]
    table: pa.Table
    """Every row of every folder, in their order, with the column `output`."""

    @property
    def num_videos(self) -> int:
        """How many videos there are."""
        return int(self.table.num_rows)

    @property
    def num_videos_there(self) -> int:
        """How many videos the folders have, those included that the page was made without."""
        return sum(folder.num_videos for folder in self.folders)

    def has(self, name: str) -> bool:
        """Return whether there is such a column with anything in it."""
        return name in self.table.column_names and self.table[name].null_count < self.num_videos

    def values(self, name: str) -> list[Any]:
        """Return a column as a list."""
        return list(self.table[name].to_pylist())


def read_sweep(roots: Sequence[Path], *, live: bool = False) -> Sweep:
    """Return the videos of output folders; `live` takes them from the records, since a run writes its table last.

    Raises: UserError when one is no output folder, or its table is damaged or not one of ours.
    """
    names = _names(roots)
    folders = tuple(_read(root, name, live) for root, name in zip(roots, names, strict=True))
    parts = [f.table.append_column(OUTPUT, pa.array([f.name] * f.table.num_rows, pa.string())) for f in folders]
    return Sweep(folders, _concat(parts))


def _read(root: Path, name: str, live: bool) -> Folder:
    store = Store(root)
    if store.exists() and (live or not store.metadata.is_file()):
        rows = dataset.Rows(store)
        table = sampled(rows.tables(), rows.num_videos)
        return Folder(store, name, _complete(table), dataset.failures(store), rows.num_videos)
    if not store.metadata.is_file():
        raise UserError(f"report: {root} has no metadata.parquet; give the output folder of a run")
    try:
        with readable(store.metadata) as source, pq.ParquetFile(source) as file:
            num_videos = file.metadata.num_rows
            groups = (file.read_row_group(i) for i in range(file.num_row_groups))
            table = sampled(groups, num_videos) if num_videos > MOST_ROWS else file.read()
        failures = read_table(store.failures_table) if store.failures_table.exists() else pa.table({})
    except (pa.ArrowException, OSError) as error:
        if store_error(error) is not None:
            raise
        raise UserError(f"report: a table in {root} is damaged; the same run command writes it anew") from None
    lacking = [column for column in (*_NEEDED, *CELL_FIELDS) if column not in {*table.column_names, *EXACT}]
    if lacking:
        raise UserError(f"report: {store.metadata} has no column {lacking[0]}; give the output folder of a run")
    return Folder(store, name, _complete(table), failures, num_videos)


def sampled(tables: Iterable[pa.Table], num_videos: int, most: int | None = None) -> pa.Table:
    """Return tables of whole pictures as one of about `most` rows (MOST_ROWS): pictures evenly, each whole."""
    step = math.ceil(num_videos / (most or MOST_ROWS))
    kept, num_pictures = [], 0
    for table in tables:
        if step > 1:
            ids = table["image_id"].combine_chunks()
            is_new = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
            number = num_pictures + np.concatenate([[0], np.cumsum(is_new)]) if len(ids) else np.empty(0, np.int64)
            table = table.filter(pa.array(number % step == 0))
            num_pictures = int(number[-1]) + 1 if len(number) else num_pictures
        kept.append(table)
    return pa.concat_tables(kept)


def _complete(table: pa.Table) -> pa.Table:
    """Return the table with the columns that one of before there were approximations lacks."""
    if "video_id" not in table.column_names:
        return table
    for name, value in {**EXACT, "quality": "final"}.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array([value] * table.num_rows))
    return table.drop_columns([OUTPUT]) if OUTPUT in table.column_names else table


def _names(roots: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own where no other is called so, else with as many parents as it takes.

    Raises: UserError when one folder is given twice.
    """
    paths = [root.resolve() for root in roots]
    twice = next((root for i, root in enumerate(roots) if paths[i] in paths[:i]), None)
    if twice is not None:
        raise UserError(f"report: {twice} is given twice")
    depth = 1
    while len(names := ["/".join(path.parts[-depth:]) for path in paths]) > len(set(names)):
        depth += 1
    return names


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the tables as one; a column whose types don't go together becomes text."""
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException:
        return pa.concat_tables(_agreeing(tables), promote_options="permissive").combine_chunks()


def _agreeing(tables: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Yield the tables with text in place of each column that isn't numbers, or of one type, in all of them."""
    kinds: dict[str, set[Any]] = {}
    for field in (field for table in tables for field in table.schema):
        kinds.setdefault(field.name, set()).add(field.type)
    mixed = {name for name, found in kinds.items() if len(found) > 1 and not all(map(_is_number, found))}
    for table in tables:
        for i, name in enumerate(table.column_names):
            if name in mixed:
                texts = [None if value is None else str(value) for value in table[name].to_pylist()]
                table = table.set_column(i, name, pa.array(texts, pa.string()))
        yield table


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
