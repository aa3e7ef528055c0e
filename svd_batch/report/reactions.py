"""How much each picture reacts to each axis: the ones that change most, and those that hardly do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svd_batch.analysis import Analysis, describe, wording
from svd_batch.analysis.effects import PictureChange
from svd_batch.report.plots import metric_label
from svd_batch.report.sentences import ordered

_NUM_PICTURES = 3
_NUM_METRICS = 2


@dataclass(frozen=True)
class Reaction:
    """What one axis does to single pictures."""

    metric: str
    axis: str
    middle: str
    """Half of the pictures change by so much over the axis."""
    most: tuple[tuple[str, str], ...]
    """Pictures with the range of their values."""
    least: tuple[tuple[str, str], ...]


def reactions(analysis: Analysis) -> list[Reaction]:
    """Return how pictures differ in motion and likeness, or in the first two metrics; nothing for one picture.

    templates/answer/reactions.html shows them, as `reactions`.
    """
    chosen = ordered(analysis)[:_NUM_METRICS]
    found = []
    for name in chosen:
        for s in (s for s in analysis.sensitivities if s.metric == name and s.range_quantiles):
            assert s.range_quantiles is not None
            if s.num_pictures < 2 or describe(name).is_flag:
                continue
            _, low, _, high, largest = s.range_quantiles
            step = largest / 5 or None
            middle = f"{wording.number(low, step)} to {wording.number(high, step)}"
            count = min(_NUM_PICTURES, s.num_pictures // 2)
            ends = [_listed(changes[:count], step) for changes in (s.most, s.least)]
            found.append(Reaction(metric_label(describe(name)), s.axis, middle, *ends))
    return found


def _listed(changes: Sequence[PictureChange], step: float | None) -> tuple[tuple[str, str], ...]:
    return tuple((change.image_id, wording.number(change.range, step)) for change in changes)
