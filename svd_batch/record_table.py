"""Records as Arrow tables and back, nothing lost: what parts of `records/` and the tables are made of. No files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pyarrow as pa

from svd_batch.records import VideoRecord, flat, from_dict

_ARROW = {
    "str": pa.string(),
    "str | None": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "float | None": pa.float64(),
}


@cache
def record_schema(kind: type) -> pa.Schema:
    """Return the Arrow schema of a record's own fields, without its metrics."""
    fields = [f for f in dataclasses.fields(kind) if f.name != "metrics"]
    return pa.schema([(f.name, _ARROW[str(f.type)]) for f in fields])


def to_table(records: Iterable[Any], kind: type = VideoRecord) -> pa.Table:
    """Return records of one kind as a table, a column for each field and after them for each metric that one has."""
    rows = [flat(record) for record in records]
    schema = record_schema(kind)
    metrics: dict[str, Any] = {}
    for row in rows:
        if len(row) > len(schema):
            metrics |= {name: value for name, value in row.items() if name not in schema.names}
    for name, value in metrics.items():
        schema = schema.append(pa.field(name, pa.bool_() if isinstance(value, bool) else pa.float64()))
    return pa.Table.from_pylist(rows, schema=schema)


def to_records(table: pa.Table) -> Iterator[VideoRecord]:
    """Yield the records that `to_table` was given."""
    own = set(record_schema(VideoRecord).names)
    metrics = [name for name in table.column_names if name not in own]
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            found = {name: row[name] for name in metrics if row[name] is not None}
            yield from_dict(VideoRecord, {**{k: v for k, v in row.items() if k in own}, "metrics": found})


def complete(table: pa.Table) -> pa.Table:
    """Return a table of video records with the columns that those of an earlier version lack, at their defaults."""
    schema = record_schema(VideoRecord)
    defaults = {f.name: f.default for f in dataclasses.fields(VideoRecord)}
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.array([defaults[field.name]] * table.num_rows, field.type))
    return table
