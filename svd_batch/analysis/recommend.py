"""Target lookup: which of the cells that were made comes nearest to a wanted value, within bounds.

Nothing is interpolated. A picture keeps the bounds in a cell if its own mean over replicates does; a cell keeps them if
enough of its pictures do. Among the cells that keep them the one is best whose median over pictures is nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from svd_batch.analysis.cells import SPREAD, ByCell, by_cell, quantiles
from svd_batch.analysis.videos import Cell, Codes, Mask, Values, Videos
from svd_batch.errors import UserError

NUM_RUNNERS_UP = 3
_FEW = 0.5
"""Cells of fewer pictures than this part of the fullest cell's are not taken for all pictures."""


@dataclass(frozen=True)
class Target:
    """What is wanted of one metric: a value, or as much or as little as the bounds allow."""

    metric: str
    value: float | Literal["most", "least"]


@dataclass(frozen=True)
class Bound:
    """What another metric, or the same, must keep; one of the two is given."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def shortfall(self, values: Values) -> Values:
        """Return by how much values miss the bound; zero or less for those that keep it."""
        low = -np.inf if self.at_least is None else self.at_least - values
        high = -np.inf if self.at_most is None else values - self.at_most
        return np.asarray(np.maximum(low, high), np.float64)


@dataclass(frozen=True)
class Expected:
    """What a cell gives of one metric: median over pictures, tenth and ninetieth percentile."""

    metric: str
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One cell for all pictures."""

    index: int
    """Into the cells."""
    cell: Cell
    expected: tuple[Expected, ...]
    """The target's metric first, then those of the bounds."""
    num_pictures: int
    num_keeping: int
    """Pictures that keep every bound in this cell."""
    is_met: bool
    """Enough pictures keep every bound."""
    misses: tuple[float, ...]
    """For each bound, by how much it would have to give way so that enough pictures keep it; 0 where it is kept."""


@dataclass(frozen=True)
class PictureChoice:
    """The cell for one picture."""

    image_id: str
    index: int
    """Into the cells."""
    values: tuple[float, ...]
    """The picture's own: the target's metric first, then those of the bounds."""
    is_met: bool
    misses: tuple[float, ...]
    """For each bound, by how much the picture misses it; 0 where it is kept."""


@dataclass(frozen=True)
class Recommendation:
    """The answer to a target with bounds."""

    outputs: tuple[str, ...]
    target: Target
    bounds: tuple[Bound, ...]
    share: float
    """The fraction of a cell's pictures that must keep the bounds."""
    metrics: tuple[str, ...]
    """In the order of `expected` and `values`."""
    cells: tuple[Cell, ...]
    best: Choice
    """Where no cell keeps the bounds: the one that misses them by least, and `is_met` is false."""
    runners_up: tuple[Choice, ...]
    """The next cells, best first; none that misses the bounds where the best keeps them."""
    num_pictures: int
    """Pictures with values of all the metrics."""
    num_cells: int
    """Cells with values of all the metrics."""
    num_sparse_cells: int
    """Cells passed over because most pictures lack them."""
    num_pictures_met: int
    """Pictures that have a cell which keeps the bounds."""
    pictures: tuple[PictureChoice, ...]


def recommend(videos: Videos, target: Target, bounds: Sequence[Bound] = (), *, share: float = 0.5) -> Recommendation:
    """Return the cell for each picture and for all.

    Raises: UserError where no picture has values of all the metrics in one cell.
    """
    metrics = tuple(dict.fromkeys([target.metric, *(b.metric for b in bounds)]))
    cell, image, values = _together(videos, metrics)
    if not len(cell):
        raise UserError(f"{' and '.join(metrics)}: no video of {', '.join(videos.names)} has values of all of them")
    misses = np.stack([b.shortfall(values[metrics.index(b.metric)]) for b in bounds] or [np.zeros(len(cell))])
    misses = np.where(misses > 0, misses, 0.0)
    scale = np.array([_scale(values[metrics.index(b.metric)]) for b in bounds] or [1.0])
    worst = (misses / scale[:, None]).max(axis=0)  # bounds on different scales are weighed by their metric's spread
    found = _Found(videos, metrics, cell, image, values, misses[: len(bounds)], worst)
    ranked, num_sparse = _rank(found, target, share)
    choices = [_choice(found, int(i), share) for i in ranked[: NUM_RUNNERS_UP + 1]]
    pictures = _pictures(found, target)
    return Recommendation(
        videos.names,
        target,
        tuple(bounds),
        share,
        metrics,
        videos.cells,
        choices[0],
        tuple(c for c in choices[1:] if c.is_met or not choices[0].is_met),
        len(pictures),
        len(np.unique(cell)),
        num_sparse,
        sum(p.is_met for p in pictures),
        pictures,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """Pictures times cells with values of all metrics; n rows."""

    videos: Videos
    metrics: tuple[str, ...]
    cell: Codes
    image: Codes
    values: Values
    """(metrics, n)"""
    misses: Values
    """(bounds, n), zero where kept."""
    worst: Values
    """(n,) the largest miss in units of its metric's spread."""


def _together(videos: Videos, metrics: Sequence[str]) -> tuple[Codes, Codes, Values]:
    num_images = len(videos.images)
    found = [by_cell(videos, videos.values(metric)) for metric in metrics]
    keys = [f.cell * num_images + f.image for f in found]
    common = keys[0]
    for key in keys[1:]:
        common = np.intersect1d(common, key, assume_unique=True)
    values = np.stack([f.value[np.isin(key, common)] for f, key in zip(found, keys, strict=True)])
    return common // num_images, common % num_images, values


def _scale(values: Values) -> float:
    low, high = np.quantile(values, [0.05, 0.95])
    return float(high - low) or 1.0


def _distance(values: Values, target: Target) -> Values:
    if target.value == "most":
        return -values
    return values if target.value == "least" else np.asarray(np.abs(values - target.value), np.float64)


def _rank(found: _Found, target: Target, share: float) -> tuple[Codes, int]:
    """Return (cells, best first; how many were passed over as sparse)."""
    num_cells = len(found.videos.cells)
    wanted = ByCell(found.cell, found.image, found.values[0])
    (low, median, high), count = quantiles(wanted, num_cells, (SPREAD[0], 0.5, SPREAD[1]))
    miss = _miss_of_share(found.cell, found.worst, num_cells, share)
    keeping = np.bincount(found.cell[found.worst == 0], minlength=num_cells)
    fullest = int(count.max())
    there = np.flatnonzero(count >= max(1, _FEW * fullest))
    order = np.lexsort((high[there] - low[there], -keeping[there], _distance(median[there], target), miss[there]))
    return there[order], int((count > 0).sum()) - len(there)


def _miss_of_share(cell: Codes, misses: Values, num_cells: int, share: float) -> Values:
    """Return for each cell the miss that `share` of its pictures don't exceed; zero where so many keep the bounds."""
    order = np.lexsort((misses, cell))
    count = np.bincount(cell, minlength=num_cells)
    start = np.searchsorted(cell[order], np.arange(num_cells))
    place = np.maximum(np.ceil(count * share - 1e-9).astype(np.int64) - 1, 0)
    at = np.minimum(start + place, len(order) - 1)
    return np.where(count > 0, misses[order][at], np.inf)


def _choice(found: _Found, index: int, share: float) -> Choice:
    here: Mask = found.cell == index
    values, worst = found.values[:, here], found.worst[here]
    bands = np.quantile(values, [0.5, *SPREAD], axis=1).T
    alone = np.zeros(int(here.sum()), np.int64)
    misses = tuple(float(_miss_of_share(alone, row[here], 1, share)[0]) for row in found.misses)
    return Choice(
        index,
        found.videos.cells[index],
        tuple(Expected(m, float(a), float(b), float(c)) for m, (a, b, c) in zip(found.metrics, bands, strict=True)),
        len(worst),
        int((worst == 0).sum()),
        float(_miss_of_share(alone, worst, 1, share)[0]) == 0.0,
        misses,
    )


def _pictures(found: _Found, target: Target) -> tuple[PictureChoice, ...]:
    """Return the best cell of each picture: of those that keep the bounds the nearest, else the least miss."""
    order = np.lexsort((found.cell, _distance(found.values[0], target), found.worst, found.image))
    first = order[np.unique(found.image[order], return_index=True)[1]]
    return tuple(
        PictureChoice(
            found.videos.images[found.image[i]],
            int(found.cell[i]),
            tuple(float(v) for v in found.values[:, i]),
            bool(found.worst[i] == 0),
            tuple(float(m) for m in found.misses[:, i]),
        )
        for i in first
    )
