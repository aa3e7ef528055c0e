"""What the videos cost: seconds by stage, GPU-hours, memory, and how busy the actors were as far as rows can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from svd_batch.report.folders import OUTPUT, Sweep

STAGES = ("load_s", "condition_s", "denoise_s", "decode_s", "encode_s", "commit_s")
_NUM_BINS = 120
_MOST_SESSIONS = 4
_MOST_REASONS = 20
MOST_FAILURES = 200

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stages:
    """Mean seconds a video by stage, of one folder."""

    output: str
    num_videos: int
    seconds: dict[str, float]

    @property
    def total_s(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Device:
    """What one kind of device did."""

    name: str
    num_videos: int
    generate_s: float
    median_s: float
    slowest_s: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Session:
    """A time without long pauses: how many actors were generating, in equal parts of it."""

    started_ms: int
    seconds: float
    busy: tuple[float, ...]

    @property
    def most(self) -> float:
        """The most actors at once, on average over one part."""
        return max(self.busy)

    @property
    def mean(self) -> float:
        """How many were busy on average."""
        return sum(self.busy) / len(self.busy)

    @property
    def path(self) -> str:
        """The curve as an SVG path in a box of 100 x 100, filled from below."""
        top = max(self.most, 1.0)
        wide = 100 / len(self.busy)
        steps = (f"V{100 - 100 * b / top:.1f}H{(i + 1) * wide:.2f}" for i, b in enumerate(self.busy))
        return f"M0 100{''.join(steps)}V100Z"


@dataclass(frozen=True)
class Failures:
    """Everything that failed and still does."""

    count: int
    reasons: tuple[tuple[str, str, int], ...]
    """(stage, error, how often), the most frequent first."""
    rows: tuple[dict[str, Any], ...]
    """The first of them."""
    attempts: int


def stages(sweep: Sweep) -> list[Stages]:
    """Return each folder's mean seconds by stage; stages that its table has no column of are left out."""
    result = []
    for folder in sweep.folders:
        names = [name for name in STAGES if name in folder.table.column_names]
        means = {name: pc.mean(folder.table[name]).as_py() for name in names}
        seconds = {name: mean for name, mean in means.items() if mean is not None}
        if seconds:
            result.append(Stages(folder.name, folder.table.num_rows, seconds))
    return result


def devices(sweep: Sweep) -> list[Device]:
    """Return what each kind of device did, the one with most hours first."""
    if not {"device_name", "generate_s", "peak_memory_bytes"} <= set(sweep.table.column_names):
        return []
    kinds: dict[Any, list[int]] = {}
    for i, name in enumerate(sweep.values("device_name")):
        kinds.setdefault(name, []).append(i)
    seconds = _floats(sweep.table, "generate_s")
    memory = _floats(sweep.table, "peak_memory_bytes")
    found = [
        Device(
            str(name),
            len(rows),
            float(np.nansum(seconds[rows])),
            float(np.nanmedian(seconds[rows])),
            float(np.nanmax(seconds[rows])),
            int(np.nanmax(memory[rows])),
        )
        for name, rows in kinds.items()
        if np.isfinite(seconds[rows]).any() and np.isfinite(memory[rows]).any()
    ]
    return sorted(found, key=lambda device: -device.generate_s)


def sessions(sweep: Sweep) -> list[Session]:
    """Return how busy the actors were, session by session, the last ones only.

    A video was in generation for its batch's time (generate_s is its share of that) from started_at; in rows of earlier
    versions, which lack that, up to write_s before its record.
    """
    table = sweep.table
    needed = {"created_at", "generate_s", "write_s", "batch_size"}
    if (
        not table.num_rows
        or not needed <= set(table.column_names)
        or not pa.types.is_timestamp(table["created_at"].type)
    ):
        return []
    batch = np.maximum(_floats(table, "batch_size"), 1)
    seconds = _floats(table, "generate_s") * batch
    start = _moments(table, "created_at") - _floats(table, "write_s") - seconds
    if "started_at" in table.column_names and pa.types.is_timestamp(table["started_at"].type):
        started = _moments(table, "started_at")
        start = np.where(np.isfinite(started), started, start)
    end = start + seconds
    known = np.isfinite(start) & (end > start)
    start, end, weight = start[known], end[known], 1 / batch[known]
    if not len(start):
        return []
    order = np.argsort(start)
    start, end, weight = start[order], end[order], weight[order]
    pause = max(60.0, 5 * float(np.median(end - start)))
    reached = np.maximum.accumulate(end)
    cuts = np.flatnonzero(start[1:] > reached[:-1] + pause) + 1
    groups = np.split(np.arange(len(start)), cuts)[-_MOST_SESSIONS:]
    return [_session(start[rows], end[rows], weight[rows]) for rows in groups]


def _session(start: Floats, end: Floats, weight: Floats) -> Session:
    """Return one session; what a video adds to a part of the time is its overlap with it."""
    first, last = float(start.min()), float(end.max())
    edges = np.linspace(first, last, _NUM_BINS + 1)

    def until(times: Floats) -> Floats:  # weighted seconds that lie after `times`, up to each edge
        order = np.argsort(times)
        sums = np.concatenate([[0.0], np.cumsum(weight[order])])
        moments = np.concatenate([[0.0], np.cumsum((weight * times)[order])])
        place = np.searchsorted(times[order], edges, side="right")
        return np.asarray(edges * sums[place] - moments[place])

    seconds = np.diff(until(start) - until(end))
    busy = np.maximum(seconds / ((last - first) / _NUM_BINS), 0)
    return Session(int(first * 1000), last - first, tuple(busy.round(3).tolist()))


def failures(sweep: Sweep) -> Failures:
    """Return what failed, over all folders."""
    reasons: Counter[tuple[str, str]] = Counter()
    shown: list[dict[str, Any]] = []
    attempts = 0
    for row in _failure_rows(sweep):
        reasons[row["stage"], f"{row['error_type']}: {row['error_message']}"] += 1
        attempts += row["attempts"] or 0
        if len(shown) < MOST_FAILURES:
            shown.append(row)
    most = tuple((stage, error, count) for (stage, error), count in reasons.most_common(_MOST_REASONS))
    return Failures(sum(reasons.values()), most, tuple(shown), attempts)


def _failure_rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    for folder in sweep.folders:
        for batch in folder.failures.to_batches(max_chunksize=10_000):
            yield from ({**row, OUTPUT: folder.name} for row in batch.to_pylist())


def _moments(table: pa.Table, name: str) -> Floats:
    """Return a column of timestamps in seconds since 1970, null as NaN."""
    ms = table[name].cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    return np.asarray(ms.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64) / 1000


def _floats(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def shares(stage: Stages) -> Sequence[tuple[str, float, float, float]]:
    """Return (name, seconds, where its part of a bar of 100 begins, how long it is) of each stage."""
    total = stage.total_s or 1.0
    parts, begin = [], 0.0
    for name, seconds in stage.seconds.items():
        parts.append((name.removesuffix("_s"), seconds, begin, 100 * seconds / total))
        begin += 100 * seconds / total
    return parts
