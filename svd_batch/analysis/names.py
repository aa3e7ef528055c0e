"""What the metric columns are called in words, their units, and which direction is the better one.

Taken from the metrics' own descriptions; any other numeric column works too, under its own name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from svd_batch import metrics
from svd_batch.errors import UserError

Better = Literal["high", "low"]


@dataclass(frozen=True)
class Metric:
    """One metric column, as the sentences and the axes of plots name it."""

    name: str
    title: str
    unit: str = ""
    """Behind a figure, as in `2.1 px a frame`; empty for a figure without one."""
    better: Better | None = None
    """None where neither direction is better in itself."""
    scale: str = ""
    """What an index is measured by, as in `0.08 of likeness (SSIM)`."""
    is_flag: bool = False
    """True or false for each clip; summed up as the fraction of clips."""


_INDICES = ("SSIM", "cosine")
"""Units that name what an index is measured by and stand behind no figure."""


def _metric(measured: metrics.Metric) -> Metric:
    """Return how a metric of the table is spoken of."""
    plain = measured.is_flag or measured.unit in _INDICES
    better: dict[str | None, Better | None] = {"higher": "high", "lower": "low"}
    return Metric(
        name=measured.name,
        title=f"{measured.title.removesuffix(' degree')} clips" if measured.is_flag else measured.title,
        unit="" if plain else measured.short_unit,
        better=better.get(measured.better),
        scale=measured.unit if measured.unit in _INDICES else "",
        is_flag=measured.is_flag,
    )


_BY_NAME = {name: _metric(measured) for name, measured in metrics.METRICS.items()}
METRIC_NAMES: tuple[str, ...] = tuple(_BY_NAME)


def describe(name: str) -> Metric:
    """Return what is known of a metric column; of an unknown one its name alone."""
    return _BY_NAME.get(name) or Metric(name, name)


def check_metric(name: str, columns: Iterable[str], field: str, outputs: str) -> str:
    """Return the name if a table has a column of that metric.

    Raises: UserError naming `field` where the metric is unknown, or known and not measured yet in `outputs`.
    """
    known = list(columns)
    if name in known:
        return name
    if name in _BY_NAME:
        raise UserError(
            f"{field}: the table has no values of {name}; measure them first: svd-batch score {outputs}"
            + (f" (it has {', '.join(known)})" if known else "")
        )
    close = difflib.get_close_matches(name, [*known, *METRIC_NAMES], n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"give one of {', '.join(known or METRIC_NAMES)}"
    raise UserError(f"{field}: unknown metric {name!r}; {hint}")
