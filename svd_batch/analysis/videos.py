"""Tables of output folders to arrays: which picture, cell and value each video has. Arrow and NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from svd_batch.analysis.names import METRIC_NAMES
from svd_batch.errors import UserError, store_error
from svd_batch.records import CELL_FIELDS, EXACT, SweepCell
from svd_batch.sweep import CHOICES

Codes = NDArray[np.int64]
Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

_TEXT = ("video_id", "image_id", "file_name", "fingerprint", "quality", *CHOICES)
_NO_METRICS = {*CELL_FIELDS, "seed", "replicate"}


@dataclass(frozen=True)
class Cell:
    """One point of a sweep as it was made, with the folder where several folders with other settings are compared."""

    settings: SweepCell
    output: str | None = None


@dataclass(frozen=True, eq=False)
class Videos:
    """Every video of one or several output folders, column by column; N videos."""

    names: tuple[str, ...]
    """The folders, as the page calls them."""
    table: pa.Table
    """Numeric columns as float64, words as they are, and `output`."""
    images: tuple[str, ...]
    image: Codes
    """Index into images, (N,)."""
    cells: tuple[Cell, ...]
    """In order of their values."""
    cell: Codes
    """Index into cells, (N,)."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        """Every column that may serve as a metric and has a value somewhere."""
        fields = (f for f in self.table.schema if pa.types.is_float64(f.type) and f.name not in _NO_METRICS)
        return tuple(f.name for f in fields if np.isfinite(self.values(f.name)).any())

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that svd_batch measures, as far as there are values, in the order of the report."""
        return tuple(name for name in METRIC_NAMES if name in self.numeric)

    def values(self, metric: str) -> Values:
        """Return a column, (N,); NaN where it is null, NaN or infinite."""
        array = self.table[metric].to_numpy(zero_copy_only=False).astype(np.float64)
        return np.where(np.isfinite(array), array, np.nan)

    def words(self, name: str, index: int) -> str:
        """Return one text of a column of words."""
        return str(self.table[name][index].as_py())


def read_videos(outputs: Sequence[Path]) -> Videos:
    """Return the videos of output folders.

    Raises: UserError for a folder without a readable table.
    """
    tables: dict[str, pa.Table] = {}
    for root in outputs:
        name = root.resolve().name
        tables[name if name not in tables else str(root)] = _read(root)
    return videos_of(tables)


def _read(root: Path) -> pa.Table:
    path = root / "metadata.parquet"
    if not path.is_file():
        raise UserError(f"OUTPUT: {root} has no metadata.parquet; give the output folder of a run")
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        damaged = UserError(f"OUTPUT: {path} is damaged; the same run command writes it anew")
        raise store_error(error) or damaged from None
    lacking = [name for name in ("video_id", "image_id", *CELL_FIELDS) if name not in {*table.column_names, *EXACT}]
    if lacking:
        raise UserError(f"OUTPUT: {path} has no column {lacking[0]}; give the output folder of a run")
    return table


def videos_of(tables: Mapping[str, pa.Table]) -> Videos:
    """Return the videos of tables as metadata.parquet has them, by the name of their folder.

    Folders of the same settings (equal `fingerprint`) count as one, and a video that two of them hold counts once.
    """
    labels = _labels(tables)
    parts = [_columns(table, labels[name]) for name, table in tables.items()]
    table = pa.concat_tables(parts, promote_options="default")
    table = table.take(pa.array(_first_of_each(table), pa.int64()))
    image, images = encode(table["image_id"])
    cell, cells = _cells(table, len(set(labels.values())) > 1)
    return Videos(tuple(tables), table, tuple(map(str, images)), image, cells, cell)


def _labels(tables: Mapping[str, pa.Table]) -> dict[str, str]:
    """Return what `output` calls each folder; folders whose videos all have the same fingerprint share a label."""
    groups: dict[object, list[str]] = {}
    for name, table in tables.items():
        prints = pc.unique(table["fingerprint"]).to_pylist() if "fingerprint" in table.column_names else []
        groups.setdefault(prints[0] if len(prints) == 1 and prints[0] else ("alone", name), []).append(name)
    return {name: " + ".join(names) for names in groups.values() for name in names}


def _columns(table: pa.Table, label: str) -> pa.Table:
    """Return the columns that the analysis reads: words as strings, numbers and flags as float64, `output`."""
    columns: dict[str, pa.Array] = {"output": pa.array([label] * table.num_rows, pa.string())}
    for name in _TEXT:
        if name in table.column_names:
            columns[name] = table[name].cast(pa.string())
    for field in table.schema:
        if field.name in columns:
            continue  # a column that the manifest carried, by the name of ours
        kind = field.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            columns[field.name] = table[field.name].cast(pa.float64(), safe=False)
        elif pa.types.is_boolean(kind):
            columns[field.name] = table[field.name].cast(pa.uint8()).cast(pa.float64())
    for name, value in {**EXACT, "quality": "final"}.items():  # tables of before there were approximations lack them
        default = pa.scalar(value if name in _TEXT else float(value))
        columns[name] = pc.fill_null(columns[name], default) if name in columns else pa.repeat(default, table.num_rows)
    for name in ("video_id", "image_id", *CELL_FIELDS):
        if columns[name].null_count:
            raise UserError(f"OUTPUT: {label}: column {name} has nulls; the same run command writes the table anew")
    return pa.table(columns)


def _first_of_each(table: pa.Table) -> Codes:
    output, _ = encode(table["output"])
    video, _ = encode(table["video_id"])
    _, first = np.unique(np.stack([output, video]), axis=1, return_index=True)
    return np.sort(first)


def _cells(table: pa.Table, has_outputs: bool) -> tuple[Codes, tuple[Cell, ...]]:
    names = [*(["output"] if has_outputs else []), *CELL_FIELDS]
    codes, values = zip(*(encode(table[name]) for name in names), strict=True)
    cell = combine(codes)
    _, first = np.unique(cell, return_index=True)
    cells = []
    for row in first:
        found = {name: v[c[row]] for name, c, v in zip(names, codes, values, strict=True)}
        settings = {name: _typed(name, found[name]) for name in CELL_FIELDS}
        cells.append(Cell(SweepCell(**settings), str(found["output"]) if has_outputs else None))  # type: ignore[arg-type]
    return cell, tuple(cells)


def _typed(name: str, value: object) -> object:
    kind = SweepCell.__dataclass_fields__[name].type
    return str(value) if kind == "str" else int(float(str(value))) if kind == "int" else float(str(value))


def encode(column: pa.ChunkedArray) -> tuple[Codes, list[object]]:
    """Return (index of each row's value, the values in order); words keep the order in which they come."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    values = encoded.dictionary.to_pylist()
    if pa.types.is_string(column.type):
        return codes, values
    order = np.argsort(np.asarray(values, np.float64), kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[codes], [values[i] for i in order]


def combine(codes: Sequence[Codes]) -> Codes:
    """Return one code for each distinct combination, in the order of the combinations, from 0 without gaps."""
    combined = np.zeros(len(codes[0]) if codes else 0, np.int64)
    for code in codes:
        size = int(code.max(initial=0)) + 1
        if size > 1:
            combined = np.unique(combined * size + code, return_inverse=True)[1].astype(np.int64)
    return combined
