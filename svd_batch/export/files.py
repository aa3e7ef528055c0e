"""A table to one file: CSV for spreadsheets, JSON and JSON Lines for programs. Written beside and renamed."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from svd_batch.errors import UserError
from svd_batch.export.folder import Folder
from svd_batch.export.settings import ExportSettings
from svd_batch.export.values import inert, plain, to_json

STDOUT = Path("-")


def write_file(folder: Folder, settings: ExportSettings, place: Path) -> Iterator[str]:
    """Write the table as csv, json or jsonl; to standard output where `place` is `-`, and then say nothing.

    Raises: UserError for a name with another suffix or a place that can't be written.
    """
    table = folder.table if settings.table == "videos" else folder.failures
    if place == STDOUT:
        _write(table, settings.target, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    if place.suffix.lower() != f".{settings.target}":
        raise UserError(f"-o: {place} is not accepted; give a file that ends in .{settings.target}, or - for the shell")
    if place.is_dir():
        raise UserError(f"-o: {place} is a folder; give a file")
    temporary = place.with_name(f".{place.name}-{os.getpid()}-{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _write(table, settings.target, file)
        temporary.replace(place)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"-o: {place} can't be written: {error.strerror or error}") from None
    yield f"{place}: {table.num_rows} {settings.table}"


def _write(table: pa.Table, target: str, file: BinaryIO) -> None:
    if target == "csv":
        _write_csv(table, file)
        return
    first, between, last = ("[\n", ",\n", "\n]\n") if target == "json" else ("", "\n", "\n")
    file.write(first.encode())
    for i, row in enumerate(_rows(table)):
        file.write(f"{between if i else ''}{row}".encode())
    file.write((last if table.num_rows or target == "json" else "").encode())


def _rows(table: pa.Table) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=1000):
        yield from (to_json(row) for row in batch.to_pylist())


def _write_csv(table: pa.Table, file: BinaryIO) -> None:
    """Write RFC 4180 in UTF-8: a null is empty, an empty text is "", every text in quotes and inert."""
    columns = {inert(name): _cells(table[name]) for name in table.column_names}
    if columns:
        options = pa_csv.WriteOptions(include_header=True, quoting_style="needed")
        pa_csv.write_csv(pa.table(columns), file, options)


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return a column as CSV has it: numbers, flags and times as they are, all else as inert text."""
    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column
    return pa.array([None if v is None else inert(_text(v)) for v in column.to_pylist()], pa.string())


def _text(value: object) -> str:
    value = plain(value)
    return value if isinstance(value, str) else to_json(value)
