"""The two tables over all metrics: which axis explains how much, and how steadily each metric follows each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svd_batch.analysis import Analysis, Metric
from svd_batch.analysis.effects import Monotonicity
from svd_batch.analysis.variance import Shares
from svd_batch.report.sentences import ordered

_SHOWN = 0.08
"""A part of a bar of this share or more has room for its figure."""


@dataclass(frozen=True)
class Part:
    """One part of a bar; lengths in percent."""

    kind: str
    """axis-0, axis-1, …, picture or rest: what static/answer.css colours."""
    name: str
    start: float
    length: float
    text: str
    """The figure, where there is room for it."""
    title: str


@dataclass(frozen=True)
class Bar:
    """The variance of one metric, split."""

    title: str
    parts: tuple[Part, ...]
    is_exact: bool


@dataclass(frozen=True)
class Steadiness:
    """How steadily a metric follows an axis."""

    rho: str
    interval: str
    sign: str
    """up, down, unclear, or nothing where there is no figure."""
    title: str


def kinds(analysis: Analysis) -> list[tuple[str, str]]:
    """Return (kind, name) of whatever a bar may be split into."""
    axes = [(f"axis-{i % 6}", axis.name) for i, axis in enumerate(analysis.axes)]
    picture = [("picture", "the picture")] if analysis.num_pictures > 1 else []
    rest = "interplay and chance" if len(axes) + len(picture) > 1 else "chance"
    return [*axes, *picture, ("rest", rest)]


def bars(analysis: Analysis) -> list[Bar]:
    """Return a bar for each metric whose variance is split; nothing where no axis varies."""
    if not analysis.axes:
        return []
    titles = {metric.name: metric.title for metric in analysis.metrics}
    found = {s.metric: s for s in analysis.shares if s.is_telling}
    return [_bar(titles[name], found[name], kinds(analysis)) for name in ordered(analysis) if name in found]


def _bar(title: str, shares: Shares, named: Sequence[tuple[str, str]]) -> Bar:
    values: dict[str, float] = {name: share or 0.0 for name, share in shares.axes.items()}
    values["the picture"] = shares.picture or 0.0
    values[named[-1][1]] = (shares.interactions or 0.0) + (shares.replicates or 0.0)
    parts, start = [], 0.0
    whole = sum(max(values[name], 0.0) for _, name in named) or 1.0
    for kind, name in named:
        share = max(values[name], 0.0) / whole
        percent = f"{share * 100:.0f} %"
        text = percent if share >= _SHOWN else ""
        parts.append(Part(kind, name, round(start * 100, 2), round(share * 100, 2), text, f"{name}: {percent}"))
        start += share
    return Bar(title, tuple(parts), shares.is_exact)


def steadiness(analysis: Analysis) -> tuple[list[str], list[tuple[str, list[Steadiness | None]]]]:
    """Return (the axes of numbers with three steps at least, for each metric its figures)."""
    axes = [axis.name for axis in analysis.axes if axis.is_ordered and len(axis.values) > 2]
    found = {(m.metric, m.axis): m for m in analysis.monotonicities}
    by_name = {metric.name: metric for metric in analysis.metrics}
    rows = []
    for name in ordered(analysis):
        cells = [_steady(found.get((name, axis)), by_name[name]) for axis in axes]
        if any(cells):
            rows.append((by_name[name].title, cells))
    return axes, rows


def _steady(found: Monotonicity | None, metric: Metric) -> Steadiness | None:
    if found is None or found.rho is None:
        return None
    low, high = found.low, found.high
    interval = f"{_signed(low)} to {_signed(high)}" if low is not None and high is not None else ""
    sign = "unclear"
    if low is not None and high is not None and (low > 0 or high < 0):
        sign = "up" if low > 0 else "down"
    pictures = "1 picture" if found.num_pictures == 1 else f"{found.num_pictures} pictures"
    title = f"{metric.title}: higher at the last step in {found.num_rising}, lower in {found.num_falling} of {pictures}"
    return Steadiness(_signed(found.rho), interval, sign, title)


def _signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "−")
    return "0" if text in ("+0.00", "−0.00") else text
