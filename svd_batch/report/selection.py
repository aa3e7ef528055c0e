"""Which videos have their clip in the page: all of them, or a balanced sample where they are too many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from svd_batch.report.folders import Sweep

MOST_CLIPS = 10_000


@dataclass(frozen=True)
class Selection:
    """The rows of the sweep's table that the page has clips of, pictures of the grid first."""

    rows: NDArray[np.int64]
    picture: NDArray[np.int64]
    """For each row, the position of its picture in `pictures`."""
    pictures: tuple[str, ...]
    """Their image_id."""
    num_in_grid: int
    """So many of the pictures are in the grid, with all their clips; the others have some clip that stands out."""
    num_pictures: int
    """How many there are in all."""

    @property
    def is_sample(self) -> bool:
        """Whether pictures were left out of the grid."""
        return self.num_in_grid < self.num_pictures


def select(sweep: Sweep, extra: Iterable[int], most: int = MOST_CLIPS) -> Selection:
    """Return whole pictures, as many as `most` clips allow, evenly over the table's order; and the `extra` rows."""
    encoded = sweep.table["image_id"].combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    names: list[str] = encoded.dictionary.to_pylist()
    codes = np.asarray(pc.fill_null(encoded.indices, 0), dtype=np.int64)
    taken = _spread(np.bincount(codes, minlength=len(names)), most)
    others = sorted({int(codes[row]) for row in extra} - set(taken.tolist()))
    place = np.full(max(len(names), 1), -1, dtype=np.int64)
    place[taken] = np.arange(len(taken))
    in_grid = np.flatnonzero(place[codes] >= 0) if len(codes) else codes
    place[others] = len(taken) + np.arange(len(others))
    beside = np.array(sorted(set(extra) - set(in_grid.tolist())), dtype=np.int64)
    rows = np.concatenate([in_grid, beside])
    pictures = tuple(str(names[i]) for i in [*taken.tolist(), *others])
    return Selection(rows, place[codes[rows]], pictures, len(taken), len(names))


def _spread(counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return pictures, evenly spaced, whose clips are at most `most` together; one at least."""
    num_pictures, total = len(counts), int(counts.sum())
    if total <= most:
        return np.arange(num_pictures)
    size = max(1, int(num_pictures * most / total))
    while size > 1:
        taken = np.arange(size) * num_pictures // size
        if counts[taken].sum() <= most:
            return taken
        size -= max(1, size // 50)
    return np.zeros(1, dtype=np.int64)
