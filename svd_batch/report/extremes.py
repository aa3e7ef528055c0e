"""Clips that stand out: the lowest and highest of each measure, how all are spread, and those that are flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from svd_batch.report.folders import Sweep
from svd_batch.report.measures import Measure

NUM_LISTED = 6
MOST_FLAGGED = 24
_NUM_BINS = 32
_FLAGS = ("is_frozen", "is_broken")


@dataclass(frozen=True)
class Extremes:
    """What stands out in one measure; rows are those of the sweep's table."""

    measure: Measure
    low: tuple[int, ...]
    high: tuple[int, ...]
    counts: tuple[int, ...]
    """Videos in each of equally wide parts from the lowest value to the highest."""
    ends: tuple[float, float]
    median: float
    num_null: int
    """Videos without a value."""


@dataclass(frozen=True)
class Flagged:
    """The videos that a flag is true for."""

    measure: Measure
    count: int
    num_measured: int
    rows: tuple[int, ...]
    """The first of them."""


def extremes(sweep: Sweep, measures: Sequence[Measure]) -> list[Extremes]:
    """Return what stands out in each measure that is a number."""
    found = (_extremes(measure, _floats(sweep, measure.name)) for measure in measures if not measure.is_flag)
    return [one for one in found if one is not None]


def _extremes(measure: Measure, values: NDArray[np.float64]) -> Extremes | None:
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return None
    order = known[np.argsort(values[known], kind="stable")]
    low, high = float(values[order[0]]), float(values[order[-1]])
    differ = high - low > 1e-12 * max(abs(low), abs(high))  # by more than rounding, or there is no width for bins
    counts = np.histogram(values[known], _NUM_BINS, (low, high))[0] if differ else np.array([len(known)])
    return Extremes(
        measure,
        tuple(order[:NUM_LISTED].tolist()),
        tuple(order[::-1][:NUM_LISTED].tolist()),
        tuple(counts.tolist()),
        (low, high),
        float(np.median(values[known])),
        len(values) - len(known),
    )


def flagged(sweep: Sweep, measures: Sequence[Measure]) -> list[Flagged]:
    """Return the frozen and the broken videos, where that was measured."""
    result = []
    for measure in measures:
        if measure.name in _FLAGS:
            values = _floats(sweep, measure.name)
            rows = np.flatnonzero(values == 1)
            listed = tuple(rows[:MOST_FLAGGED].tolist())
            result.append(Flagged(measure, len(rows), int(np.isfinite(values).sum()), listed))
    return result


def rows_that_stand_out(found: Sequence[Extremes], flags: Sequence[Flagged]) -> set[int]:
    """Return every row that is listed anywhere."""
    return {row for one in found for row in (*one.low, *one.high)} | {row for flag in flags for row in flag.rows}


def _floats(sweep: Sweep, name: str) -> NDArray[np.float64]:
    """Return a column as numbers, NaN for null."""
    values = sweep.table[name]
    kind = pa.uint8() if pa.types.is_boolean(values.type) else values.type
    return np.asarray(values.cast(kind).cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
