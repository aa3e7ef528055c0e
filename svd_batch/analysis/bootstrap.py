"""Estimates over pictures, with percentile bootstrap intervals that resample pictures.

The draws are fixed, so that the same table gives the same figures. Source: Efron and Tibshirani, An Introduction to
the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from svd_batch.analysis.videos import Codes, Values

LEVEL = 0.95
NUM_RESAMPLES = 4000
_SEED = 20261125

FEW_PICTURES = 6
"""With fewer, not even the range of all pictures holds the median with 95 %: 1 - 2 * 0.5^n."""


@dataclass(frozen=True)
class Estimate:
    """A median over pictures (a mean, of flags) and its interval; no interval for a single picture."""

    value: float | None
    low: float | None
    high: float | None
    num_pictures: int

    @property
    def is_clear(self) -> bool:
        """Return whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(values: Values, *, is_mean: bool = False, level: float = LEVEL) -> Estimate:
    """Return the median of one value a picture (NaN: the picture has none), or the mean, with its interval."""
    found = np.sort(values[np.isfinite(values)])
    count = len(found)
    if count == 0:
        return Estimate(None, None, None, 0)
    center = float(found.mean() if is_mean else np.median(found))
    if count == 1:
        return Estimate(center, None, None, 1)
    resampled = _means(found) if is_mean else _medians(found)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(center, float(low), float(high), count)


def _medians(ordered: Values) -> Values:
    """Return the medians of resamples of sorted values."""
    lower, upper = _median_ranks(len(ordered))
    return (ordered[lower] + ordered[upper]) / 2


@lru_cache(maxsize=64)
def _median_ranks(count: int) -> tuple[Codes, Codes]:
    """Return the places of the two middle values of each resample, in the sorted values.

    A resample takes the places floor(count * u) of uniform numbers u. The k-th smallest of n uniform numbers has the
    distribution Beta(k, n + 1 - k), and the next one, of the rest above it, Beta(1, n - k): so one draw stands for
    a whole resample, exactly. Source: David and Nagaraja, Order Statistics (2003), section 2.5.
    """
    rng = np.random.default_rng([_SEED, count])
    k = (count + 1) // 2
    lower = rng.beta(k, count + 1 - k, NUM_RESAMPLES)
    upper = lower
    if count % 2 == 0:
        upper = lower + (1 - lower) * rng.beta(1, count - k, NUM_RESAMPLES)
    return _place(lower, count), _place(upper, count)


def _place(uniform: Values, count: int) -> Codes:
    return np.minimum((uniform * count).astype(np.int64), count - 1)


def _means(values: Values) -> Values:
    """Return the means of resamples."""
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) <= 64:  # flags: how often each value is drawn, instead of which picture
        rng = np.random.default_rng([_SEED, len(values)])
        drawn: NDArray[np.float64] = rng.multinomial(len(values), counts / len(values), NUM_RESAMPLES) @ kinds
        return drawn / len(values)
    return np.asarray(_weights(len(values)) @ values, np.float64)


@lru_cache(maxsize=2)
def _weights(count: int) -> NDArray[np.float32]:
    """Return how much each of `count` pictures weighs in each resample; rows add up to 1."""
    rng = np.random.default_rng([_SEED, count])
    num_resamples = NUM_RESAMPLES // 4
    draws = rng.integers(0, count, (num_resamples, count)) + count * np.arange(num_resamples)[:, None]
    counted = np.bincount(draws.ravel(), minlength=num_resamples * count).reshape(num_resamples, count)
    return (counted / count).astype(np.float32)
