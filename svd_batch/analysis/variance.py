"""Which axis explains how much of a metric: shares of the variance over all videos, with the picture as a block.

The model is value = picture + axis + axis + …, fitted by least squares to all videos. A term's share is its covariance
with the value over the value's variance, so shares depend on no order of terms and add up to one with what is left:
interactions (means of a picture's cell against the model) and replicates (within a cell). For a whole grid these are
the sums of squares of a balanced analysis of variance. Source: Pratt, Dividing the Indivisible (1987).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from svd_batch.analysis.axes import Axis
from svd_batch.analysis.rows import Rows, group_means
from svd_batch.analysis.videos import Codes, Values

_NOTHING = 1e-9


@dataclass(frozen=True)
class Shares:
    """Shares of a metric's variance; None where the metric has no variance or no values."""

    metric: str
    picture: float | None
    axes: dict[str, float | None]
    """None for an axis that no picture varies in: what it does can't be told from what the pictures do."""
    interactions: float | None
    """Of axes with each other and with the picture."""
    replicates: float | None
    num_videos: int
    is_exact: bool
    """The grid is whole and balanced; else the shares are approximate, and a small one may come out below zero."""
    is_separable: bool
    """The fit tells all axes apart; else their shares are one of many splits."""

    @property
    def has_picture(self) -> bool:
        """Return whether pictures differ; a single one explains nothing."""
        return (self.picture or 0.0) > _NOTHING

    @property
    def is_telling(self) -> bool:
        """Return whether there is a split: of an axis and something else that may vary."""
        num_terms = sum(share is not None for share in self.axes.values()) + self.has_picture
        has_axis = num_terms > self.has_picture
        return self.picture is not None and has_axis and (num_terms > 1 or (self.replicates or 0.0) > _NOTHING)

    @property
    def rest_name(self) -> str:
        """Return what is left by axes and picture: where only one of them varies, nothing can act together."""
        num_terms = sum(share is not None for share in self.axes.values()) + self.has_picture
        return "interplay and chance" if num_terms > 1 else "chance"


def shares(metric: str, axes: list[Axis], rows: Rows, values: Values) -> Shares:
    """Return the variance shares; `values` has one value a video, of all videos."""
    y = values[rows.video]
    count = len(y)
    total = float(((y - y.mean()) ** 2).sum()) if count else 0.0
    if total <= 1e-24 * count * max(1.0, float(np.abs(y).max(initial=0)) ** 2):
        nothing: dict[str, float | None] = {axis.name: None for axis in axes}
        return Shares(metric, None, nothing, None, None, count, False, False)
    image = rows.image[rows.row]
    levels = [codes[rows.row] for codes in rows.levels]
    within = [a for a in range(len(axes)) if _varies_within(rows.image, rows.levels[a])]
    effects, is_separable = _fit([levels[a] for a in within], image, y, rows.num_images)
    fitted = [effect[levels[a]] for a, effect in zip(within, effects, strict=True)]
    block = _block(image, y - sum(fitted, np.zeros(count)), rows.num_images)
    centered = y - y.mean()
    found = {axes[a].name: float(f @ centered / total) for a, f in zip(within, fitted, strict=True)}
    picture = float(block[image] @ centered / total)
    cell = group_means(rows.row, y, len(rows.image))
    replicates = float(((y - cell[rows.row]) ** 2).sum() / total)
    return Shares(
        metric,
        picture,
        {axis.name: found.get(axis.name) for axis in axes},
        1.0 - picture - sum(found.values()) - replicates,
        replicates,
        count,
        len(within) == len(axes) and _is_balanced(rows, axes),
        is_separable,
    )


def _varies_within(image: Codes, level: Codes) -> bool:
    pairs = np.unique(image * (int(level.max(initial=0)) + 1) + level)
    return len(pairs) > len(np.unique(image))


def _is_balanced(rows: Rows, axes: list[Axis]) -> bool:
    """Return whether every picture that is there has every cell of the whole grid, equally often."""
    num_cells = int(np.prod([len(axis.values) for axis in axes]))
    per_row = np.bincount(rows.row)
    return len(rows.image) == len(np.unique(rows.image)) * num_cells and bool((per_row == per_row[0]).all())


def _block(image: Codes, rest: Values, num_images: int) -> Values:
    return np.asarray(np.bincount(image, rest, num_images) / np.maximum(np.bincount(image, minlength=num_images), 1))


def _fit(levels: list[Codes], image: Codes, y: Values, num_images: int) -> tuple[list[Values], bool]:
    """Return (each axis's effects by step, whether the data tell them apart), pictures swept out first."""
    if not levels:
        return [], True
    sizes = [int(codes.max()) + 1 for codes in levels]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    num_columns = int(starts[-1])
    per_image = np.maximum(np.bincount(image, minlength=num_images), 1).astype(np.float64)
    columns = [codes + start for codes, start in zip(levels, starts, strict=False)]
    mix = sum(
        (np.bincount(image * num_columns + c, minlength=num_images * num_columns) for c in columns),
        np.zeros(num_images * num_columns),
    ).reshape(num_images, num_columns)  # how often each picture has each step
    gram = -(mix.T @ (mix / per_image[:, None]))
    for a in columns:
        for b in columns:
            gram += np.bincount(a * num_columns + b, minlength=num_columns**2).reshape(num_columns, num_columns)
    rest = y - _block(image, y, num_images)[image]
    right = sum((np.bincount(c, rest, num_columns) for c in columns), np.zeros(num_columns))
    effects, _, rank, _ = np.linalg.lstsq(gram, right, rcond=1e-9)
    num_used = int((mix.sum(axis=0) > 0).sum())
    split = [np.asarray(effects[a:b], np.float64) for a, b in itertools.pairwise(starts)]
    return split, int(rank) == num_used - len(levels)
