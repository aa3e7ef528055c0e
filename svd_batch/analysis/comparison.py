"""The steps of a response curve compared with each other within pictures: what sentences are made from."""

from __future__ import annotations

import numpy as np

from svd_batch.analysis import wording
from svd_batch.analysis.axes import Axis
from svd_batch.analysis.bootstrap import LEVEL, Estimate, estimate
from svd_batch.analysis.effects import Curve, Response
from svd_batch.analysis.names import Metric, describe

SAME = 0.05
"""Steps that differ by less than this part of the whole change, interval included, count as level."""
SLOW = 0.25
"""Level steps also differ by less than this part of what an even change over the axis would make between them."""
SLIGHT = 0.05
"""A change of less than this part of what lies between the fifth and the ninety-fifth percentile is called slight."""


class Comparison:
    """The steps of one response, compared within pictures."""

    def __init__(self, found: Response, curve: Curve) -> None:
        self.metric: Metric = describe(found.metric)
        self.axis: Axis = found.axis
        self.matrix = found.compared
        self.is_flag = found.is_flag
        self.is_confounded = found.is_confounded
        self.centers = [point.center for point in curve.points]
        self.steps = [i for i, center in enumerate(self.centers) if center is not None]
        """Steps that have a value."""
        self._noise = 1e-9 * float(np.nanmax(np.abs(self.matrix))) if np.isfinite(self.matrix).any() else 0.0
        self._changes: dict[tuple[int, int, float], Estimate] = {}

    def change(self, a: int, b: int, level: float = LEVEL) -> Estimate:
        """Return how much higher step `b` is than step `a`."""
        if (a, b, level) not in self._changes:
            difference = self.matrix[:, b] - self.matrix[:, a]
            difference = np.where(np.abs(difference) <= self._noise, 0.0, difference)
            self._changes[a, b, level] = estimate(difference, is_mean=self.is_flag, level=level)
        return self._changes[a, b, level]

    def is_slight(self, change: Estimate) -> bool:
        """Return whether a change is small beside what the metric varies by over pictures and steps."""
        low, high = np.nanquantile(self.matrix, [0.05, 0.95])
        return abs(change.value or 0.0) < SLIGHT * float(high - low)

    def center(self, step: int) -> float:
        """Return the curve at a step that has a value."""
        center = self.centers[step]
        assert center is not None
        return center

    def value(self, step: int) -> str:
        """Return the axis's value at a step, in words."""
        return wording.shown(self.axis.values[step], self.axis)

    def extremes(self) -> tuple[int, int]:
        """Return the steps with the lowest and the highest point of the curve."""
        return min(self.steps, key=self.center), max(self.steps, key=self.center)

    def is_level(self, steps: list[int], at: int, whole: float) -> bool:
        """Return whether all steps are as high as step `at`, to within SAME of the whole change, interval included.

        A step that is near on the axis must be nearer still, else the last step of any slow rise would be level.
        """
        for step in sorted(steps, key=lambda step: -abs(step - at)):  # the furthest differ most: no is found soon
            change = self.change(at, step)
            limit = whole * min(SAME, SLOW * self._distance(at, step))
            if change.low is None or change.high is None or max(-change.low, change.high) > limit:
                return False
        return True

    def is_slower(self, step: int, at: int, whole: float) -> bool:
        """Return whether what lies between two steps is less than half of an even change's part."""
        return abs(self.change(at, step).value or 0.0) <= whole * self._distance(at, step) / 2

    def _distance(self, a: int, b: int) -> float:
        """Return how far two steps are apart, as part of the axis from its first to its last value."""
        x = [float(self.axis.values[i]) for i in (a, b, self.steps[0], self.steps[-1])]
        return abs(x[1] - x[0]) / (x[3] - x[2])

    def is_unclear(self, steps: list[int], at: int) -> bool:
        """Return whether no step differs from step `at` clearly."""
        return not any(self.change(at, step).is_clear for step in sorted(steps, key=lambda step: -abs(step - at)))
