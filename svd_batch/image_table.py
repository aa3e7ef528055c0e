"""Millions of ImageRecords in little memory: columns, of which a record is made when it is asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from svd_batch.records import CellValue, ImageRecord

_ARROW = {"str": pa.string(), "str | None": pa.string(), "int | None": pa.int64()}
_SCHEMA = pa.schema([(f.name, _ARROW.get(str(f.type), pa.int32())) for f in fields(ImageRecord)])
"""As the fields; `fixed` is a number, since few combinations are shared by many rows."""


class ImageTable(Sequence[ImageRecord]):
    """A sequence of images, in manifest order; cheap to go through, and to jump to one here and there."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._starts: list[int] = []
        self._num_rows = 0
        self._fixed: list[tuple[tuple[str, CellValue], ...]] = []
        self._fixed_numbers: dict[tuple[tuple[str, CellValue], ...], int] = {}
        self._last: tuple[int, list[tuple[Any, ...]]] = (-1, [])

    def append(self, images: Sequence[ImageRecord]) -> None:
        """Add some images at the end; best about a thousand at once."""
        rows = [tuple(vars(image).values()) for image in images]
        *columns, fixed = map(list, zip(*rows, strict=True)) if rows else ([] for _ in _SCHEMA)
        columns.append([self._number(values) for values in fixed])
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
        self._starts.append(self._num_rows)
        self._num_rows += len(images)

    def _number(self, fixed: tuple[tuple[str, CellValue], ...]) -> int:
        number = self._fixed_numbers.setdefault(fixed, len(self._fixed))
        if number == len(self._fixed):
            self._fixed.append(fixed)
        return number

    def __len__(self) -> int:
        return self._num_rows

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._num_rows))]
        if not -self._num_rows <= index < self._num_rows:
            raise IndexError(index)
        index %= self._num_rows
        batch = bisect_right(self._starts, index) - 1
        return self._record(self._rows(batch)[index - self._starts[batch]])

    def __iter__(self) -> Iterator[ImageRecord]:
        for batch in range(len(self._batches)):
            yield from map(self._record, self._rows(batch))

    def _rows(self, batch: int) -> list[tuple[Any, ...]]:
        number, rows = self._last
        if number != batch:
            columns = [column.to_pylist() for column in self._batches[batch].columns]
            rows = list(zip(*columns, strict=True))
            self._last = (batch, rows)
        return rows

    def _record(self, row: tuple[Any, ...]) -> ImageRecord:
        return ImageRecord(*(*row[:-1], self._fixed[row[-1]]))

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a field of all images."""
        index = _SCHEMA.get_field_index(name)
        return pa.chunked_array([batch.column(index) for batch in self._batches], _SCHEMA.field(index).type)

    def where(self, is_wanted: NDArray[np.bool_]) -> ImageTable:
        """Return the images for which that is so, in their order."""
        found = ImageTable()
        found._fixed, found._fixed_numbers = self._fixed, self._fixed_numbers
        for start, batch in zip(self._starts, self._batches, strict=True):
            kept = batch.filter(pa.array(is_wanted[start : start + batch.num_rows]))
            if kept.num_rows:
                found._batches.append(kept)
                found._starts.append(found._num_rows)
                found._num_rows += kept.num_rows
        return found

    def first_repeated(self) -> tuple[int, int] | None:
        """Return the positions of the first image whose id was there before, and of that one; None where all differ."""
        ids = self.column("image_id").combine_chunks().dictionary_encode()
        ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        if len(ids.dictionary) == len(ids):
            return None
        codes: NDArray[np.int32] = ids.indices.to_numpy()
        later = int(np.flatnonzero(np.maximum.accumulate(codes)[:-1] >= codes[1:])[0]) + 1
        return later, int(np.flatnonzero(codes == codes[later])[0])
