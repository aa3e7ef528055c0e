"""Single clips: how a metric is distributed over them, the lowest and the highest, the frozen and the broken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svd_batch.analysis.names import Better, describe
from svd_batch.analysis.videos import Values, Videos

NUM_LISTED = 10
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_MOST_BINS = 40


@dataclass(frozen=True)
class Distribution:
    """One metric over all videos."""

    metric: str
    num_videos: int
    num_missing: int
    """Videos without a value: null, NaN or infinite."""
    quantiles: tuple[float, ...] | None
    """At QUANTILES."""
    edges: tuple[float, ...]
    """Of the histogram's bins, one more than counts; bins of equal width, the last one with its upper edge."""
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Clip:
    """One video with its value."""

    video_id: str
    output: str
    image_id: str
    cell: int
    """Index into the cells."""
    value: float


@dataclass(frozen=True)
class Extremes:
    """The clips at both ends of a metric; the first is the furthest out."""

    metric: str
    better: Better | None
    """Which end is the better one; None where neither is."""
    lowest: tuple[Clip, ...]
    highest: tuple[Clip, ...]


@dataclass(frozen=True)
class Flagged:
    """Clips with a flag, as frozen or broken."""

    metric: str
    num_flagged: int
    num_known: int
    """Videos with a value."""
    clips: tuple[Clip, ...]
    """The first of the table."""


def distribution(metric: str, values: Values) -> Distribution:
    """Return quantiles and histogram; bins by Freedman and Diaconis (1981), 40 at most."""
    found = values[np.isfinite(values)]
    missing = len(values) - len(found)
    if not len(found):
        return Distribution(metric, 0, missing, None, (), ())
    low, high = float(found.min()), float(found.max())
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        edges = np.array([low, high])
        counts = np.array([len(found)])
    else:
        quarter, three = np.quantile(found, [0.25, 0.75])
        width = 2 * (three - quarter) / len(found) ** (1 / 3)
        num_bins = int(np.clip(np.ceil((high - low) / width), 1, _MOST_BINS)) if width > 0 else min(10, _MOST_BINS)
        counts, edges = np.histogram(found, num_bins, (low, high))
    quantiles = tuple(float(q) for q in np.quantile(found, QUANTILES))
    return Distribution(
        metric, len(found), missing, quantiles, tuple(float(e) for e in edges), tuple(int(c) for c in counts)
    )


def extremes(videos: Videos, metric: str, values: Values, num_listed: int = NUM_LISTED) -> Extremes:
    """Return the lowest and the highest clips; no clip is in both."""
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    count = min(num_listed, (len(order) + 1) // 2)
    lowest = tuple(_clip(videos, i, values) for i in order[:count])
    highest = tuple(_clip(videos, i, values) for i in order[count:][::-1][:num_listed])
    return Extremes(metric, describe(metric).better, lowest, highest)


def flagged(videos: Videos, metric: str, values: Values, num_listed: int = NUM_LISTED) -> Flagged:
    """Return the clips that have a flag."""
    found = np.flatnonzero(values > 0)
    known = int(np.isfinite(values).sum())
    return Flagged(metric, len(found), known, tuple(_clip(videos, i, values) for i in found[:num_listed]))


def _clip(videos: Videos, row: int, values: Values) -> Clip:
    return Clip(
        videos.words("video_id", row),
        videos.words("output", row),
        videos.images[videos.image[row]],
        int(videos.cell[row]),
        float(values[row]),
    )
