"""Videos to one value for each picture and cell, and further to one for each picture and step of an axis.

Replicates are averaged first. What remains is averaged over the other axes so that every step is compared at the same
settings of the others: for a whole grid that is the plain mean. Where cells are missing, each picture's values are
fitted by least squares as (effect of the step) + (effect of the other settings), and the means are the fit's; a step
that a picture has no clip of stays empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from svd_batch.analysis.axes import AxisCodes
from svd_batch.analysis.videos import Codes, Mask, Values, Videos, combine

_MAX_ROUNDS, _PRECISION = 200, 1e-7


@dataclass(frozen=True, eq=False)
class Rows:
    """Pictures times cells, as far as there are values of some metrics; n rows."""

    num_images: int
    video: Codes
    """The videos with a value."""
    row: Codes
    """Each such video's row."""
    image: Codes
    """(n,)"""
    cell: Codes
    """(n,)"""
    levels: tuple[Codes, ...]
    """Each row's place on each axis, (n,) each."""

    def average(self, values: Values) -> Values:
        """Return the mean over replicates, (n,), of the values of all videos."""
        return group_means(self.row, values[self.video], len(self.image))

    @cached_property
    def designs(self) -> dict[tuple[int, ...], Design]:
        """Designs made so far, by axes."""
        return {}

    def design(self, axes: tuple[int, ...], num_levels: int) -> Design:
        """Return how the steps of one axis, or of two together, are spread over pictures and other settings."""
        if axes not in self.designs:
            sizes = [int(self.levels[a].max(initial=0)) + 1 for a in axes]
            level = self.levels[axes[0]]
            for a, size in zip(axes[1:], sizes[1:], strict=True):
                level = level * size + self.levels[a]
            others = [codes for a, codes in enumerate(self.levels) if a not in axes]
            context = combine(others) if others else np.zeros(len(level), np.int64)
            self.designs[axes] = Design(self.image, level, context, self.num_images, num_levels)
        return self.designs[axes]


def group_means(group: Codes, values: Values, num_groups: int) -> Values:
    """Return the mean of each group; every group has a value."""
    return np.asarray(np.bincount(group, values, num_groups) / np.bincount(group, minlength=num_groups), np.float64)


def rows_by_metric(videos: Videos, axes: Sequence[AxisCodes], metrics: Sequence[str]) -> Iterator[tuple[str, Rows]]:
    """Yield each metric with its rows; metrics with values of the same videos share them."""
    made: dict[bytes, Rows] = {}
    for metric in metrics:
        has_value = np.isfinite(videos.values(metric))
        key = np.packbits(has_value).tobytes()
        if key not in made:
            made[key] = _rows(videos, axes, np.flatnonzero(has_value))
        yield metric, made[key]


def _rows(videos: Videos, axes: Sequence[AxisCodes], video: Codes) -> Rows:
    row = combine([videos.image[video], videos.cell[video]])
    _, first = np.unique(row, return_index=True)
    some = video[first]
    levels = tuple(axis.codes[some] for axis in axes)
    return Rows(len(videos.images), video, row, videos.image[some], videos.cell[some], levels)


class Design:
    """How the steps of an axis and the settings of the others meet, picture by picture; the values come later.

    A node is a picture's step or a picture's setting of the other axes; a row joins two nodes.
    """

    def __init__(self, image: Codes, level: Codes, context: Codes, num_images: int, num_levels: int) -> None:
        self.num_images, self.num_levels = num_images, num_levels
        pairs = np.unique(level * (int(context.max(initial=0)) + 1) + context, return_index=True)[1]
        self.is_confounded = len(np.unique(_components(level[pairs], combine([context[pairs]])))) > 1
        """The sweep itself never has some steps at the same settings of the other axes."""
        steps, self._step = np.unique(image * num_levels + level, return_inverse=True)
        settings, self._setting = np.unique(image * (int(context.max(initial=0)) + 1) + context, return_inverse=True)
        self._setting_image = settings // (int(context.max(initial=0)) + 1)
        self.image, self.level = steps // num_levels, steps % num_levels
        meetings = len(np.unique(self._step * len(settings) + self._setting))
        full = int((self._per_image(self.image) * self._per_image(self._setting_image)).sum())
        self.is_whole = len(image) == meetings == full
        """Every picture has each of its steps at each of its other settings, once."""
        self._kept = self._comparable() if not self.is_whole and not self.is_confounded else np.ones(len(steps), bool)

    def _per_image(self, image: Codes) -> Codes:
        return np.bincount(image, minlength=self.num_images)

    def _comparable(self) -> Mask:
        """Return the steps of each picture that can be compared with each other: the largest connected part."""
        part = _components(self._step, self._setting)  # by row
        of_step = np.zeros(len(self.image), np.int64)
        of_step[self._step] = part
        size = np.bincount(of_step, minlength=int(part.max(initial=0)) + 1)[of_step]
        order = np.lexsort((of_step, -size, self.image))
        _, first = np.unique(self.image[order], return_index=True)
        best = np.zeros(self.num_images, np.int64)
        best[self.image[order][first]] = of_step[order][first]
        return np.asarray(of_step == best[self.image], np.bool_)

    def means(self, values: Values) -> Values:
        """Return each picture's mean at each of its steps, one a node in the order of `image` and `level`.

        NaN for a step that can't be compared with the picture's others.
        """
        step_means = group_means(self._step, values, len(self.image))
        if self.is_whole or self.is_confounded:
            return step_means
        kept = self._kept[self._step]
        step, setting, y = self._step[kept], self._setting[kept], values[kept]
        fitted, offsets = self._fit(step, setting, y)
        used = np.bincount(setting, minlength=len(offsets)) > 0
        image = self._setting_image[used]
        count = np.maximum(self._per_image(image), 1)
        shift = np.bincount(image, offsets[used], self.num_images) / count
        fitted = self._levelled(fitted + shift[self.image], 10 * _PRECISION * float(np.ptp(y)) if len(y) else 0.0)
        return np.where(self._kept, fitted, np.nan)

    def _levelled(self, fitted: Values, noise: float) -> Values:
        """Return the fit with one value for the steps of a picture that differ by no more than the fit's error."""
        order = np.lexsort((fitted, self.image))
        is_apart = (np.diff(fitted[order]) > noise) | (np.diff(self.image[order]) != 0)
        group = np.empty(len(fitted), np.int64)
        group[order] = np.concatenate([[0], np.cumsum(is_apart)])[: len(fitted)]
        return group_means(group, fitted, int(group.max(initial=-1)) + 1)[group]

    def _fit(self, step: Codes, setting: Codes, y: Values) -> tuple[Values, Values]:
        """Return (step effects, setting effects) of the least-squares fit, by alternating means."""
        num_steps, num_settings = len(self.image), len(self._setting_image)
        per_step = np.maximum(np.bincount(step, minlength=num_steps), 1)
        per_setting = np.maximum(np.bincount(setting, minlength=num_settings), 1)
        offsets = np.zeros(num_settings)
        fitted = np.bincount(step, y, num_steps) / per_step
        tolerance = _PRECISION * float(np.ptp(y)) + 1e-12 * float(np.abs(y).max(initial=0)) if len(y) else 0.0
        for _ in range(_MAX_ROUNDS):
            offsets = np.bincount(setting, y - fitted[step], num_settings) / per_setting
            before, fitted = fitted, np.bincount(step, y - offsets[setting], num_steps) / per_step
            if float(np.abs(fitted - before).max(initial=0)) <= tolerance:
                break
        return fitted, offsets

    def dense(self, means: Values) -> Values:
        """Return the means as pictures times steps, NaN where there is none."""
        matrix = np.full((self.num_images, self.num_levels), np.nan)
        matrix[self.image, self.level] = means
        return matrix


def _components(left: Codes, right: Codes) -> Codes:
    """Return which connected part each row belongs to, a row joining node `left` with node `right`."""
    label = left.copy()
    while True:
        of_right = np.full(int(right.max(initial=0)) + 1, np.iinfo(np.int64).max)
        np.minimum.at(of_right, right, label)
        of_left = np.full(int(left.max(initial=0)) + 1, np.iinfo(np.int64).max)
        np.minimum.at(of_left, left, of_right[right])
        after = of_left[left]
        if (after == label).all():
            return label
        label = after
