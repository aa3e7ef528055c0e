"""What the figures say, in plain words, with the figures in them.

An effect is stated only where its interval excludes zero. All comparisons are within pictures: the median over pictures
of the difference between two steps of the same picture. Where several differences are searched for the largest, their
intervals are widened accordingly (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svd_batch.analysis import wording
from svd_batch.analysis.bootstrap import LEVEL, Estimate
from svd_batch.analysis.comparison import Comparison
from svd_batch.analysis.effects import Curve, Response
from svd_batch.analysis.names import describe
from svd_batch.analysis.variance import Shares

TURN = 0.1
"""A fall behind a rise counts from this part of the rise on, and the reverse."""


@dataclass(frozen=True)
class Sentence:
    """One sentence, without its full stop."""

    metric: str
    axis: str | None
    kind: str
    """rises, falls, peaks, dips, uneven, differs, unclear, constant, one_picture, not_compared or shares."""
    text: str


def effect(found: Response, curve: Curve) -> Sentence:
    """Return what the axis does to the metric, in one sentence."""
    c = Comparison(found, curve)
    kind, text = _effect(c)
    return Sentence(found.metric, found.axis.name, kind, text)


def _effect(c: Comparison) -> tuple[str, str]:
    subject, axis = wording.subject(c.metric), wording.axis_name(c.axis)
    if len(c.steps) < 2:
        return "not_compared", f"{subject} has values at one step of {axis} alone, so its effect is unknown"
    if c.is_confounded:
        return (
            "not_compared",
            f"the effect of {axis} on {subject} can't be told: its values were made at other settings elsewhere",
        )
    finite = c.matrix[np.isfinite(c.matrix)]
    if np.ptp(finite) <= 1e-9 * np.abs(finite).max():
        return "constant", f"{subject} is {wording.with_unit(wording.number(finite[0]), c.metric)} everywhere on {axis}"
    first, last = c.steps[0], c.steps[-1]
    whole = c.change(first, last)
    if not (np.isfinite(c.matrix).sum(axis=1) > 1).any():
        return "not_compared", f"no picture has two values of {axis}, so its effect on {subject} can't be told"
    if len(c.matrix) == 1:
        return _one_picture(c, subject, axis)
    if not c.axis.is_ordered:
        return _words(c, subject, axis)
    return _turn(c, subject, axis) or (
        _trend(c, subject, axis, whole) if whole.is_clear else _uneven(c, subject, axis) or _unclear(c, subject, axis)
    )


def _span(c: Comparison, a: int, b: int) -> str:
    """Return `from 0.4 to 2.1 px a frame`, or `by 1.7 px a frame` where the curve's points hide the change."""
    change = c.change(a, b)
    low, high = c.center(a), c.center(b)
    if change.value is None or (high - low) * change.value <= 0:
        return f"by {wording.with_unit(wording.number(abs(change.value or 0.0)), c.metric)}"
    start, end = wording.pair(low, high)
    return f"from {start} to {wording.with_unit(end, c.metric)}"


def _one_picture(c: Comparison, subject: str, axis: str) -> tuple[str, str]:
    first, last = c.steps[0], c.steps[-1]
    start, end = wording.pair(c.center(first), c.center(last))
    return "one_picture", (
        f"{subject} is {start} at {axis} {c.value(first)} and {wording.with_unit(end, c.metric)} at {c.value(last)}; "
        "that is one picture, so there is no interval"
    )


def _words(c: Comparison, subject: str, axis: str) -> tuple[str, str]:
    low, high = c.extremes()
    if len(c.steps) == 2:
        base, other = c.steps
        change = c.change(base, other)
        return _instead(c, axis, base, other, change) if change.is_clear else _unclear(c, subject, axis)
    level = 1 - (1 - LEVEL) / (len(c.steps) * (len(c.steps) - 1) / 2)
    if not c.change(low, high, level).is_clear:
        return _unclear(c, subject, axis)
    return "differs", (
        f"{subject} is lowest with {axis} {c.value(low)} and highest with {c.value(high)}: {_span(c, low, high)} "
        f"{wording.evidence(c.change(low, high))}"
    )


def _instead(c: Comparison, axis: str, base: int, other: int, change: Estimate) -> tuple[str, str]:
    """Return what one value instead of another costs, gains or changes."""
    assert change.value is not None
    is_up = change.value > 0
    size = wording.number(abs(change.value))
    what = f"{axis} {c.value(other)} instead of {c.value(base)}"
    if c.metric.better is None or c.metric.is_flag:
        verb = "raises" if is_up else "lowers"
        text = f"{what} {verb} {wording.subject(c.metric)} {_span(c, base, other)}"
    elif c.metric.better == "high":
        text = f"{what} {'gains' if is_up else 'costs'} {wording.amount(size, c.metric)}"
    else:
        text = f"{what} {'adds' if is_up else 'saves'} {wording.amount(size, c.metric)}"
    return ("rises" if is_up else "falls") if c.axis.is_ordered else "differs", f"{text} {wording.evidence(change)}"


def _trend(c: Comparison, subject: str, axis: str, whole: Estimate) -> tuple[str, str]:
    """Return a rise or fall between two steps, with what is level below and above them."""
    assert whole.value is not None
    if len(c.steps) == 2:
        return _instead(c, axis, c.steps[0], c.steps[1], whole)
    verb = "rises" if whole.value > 0 else "falls"
    end, above = _end(c, abs(whole.value))
    start, below = _start(c, end, abs(whole.value))
    a, b = c.steps[start], c.steps[end]
    change = c.change(a, b)
    size = wording.number(abs(change.value or 0.0))
    is_cost = (verb == "falls") == (c.metric.better == "high")
    is_told = c.metric.better and not c.is_flag and is_cost
    cost = f"; that costs the median picture {wording.amount(size, c.metric)}" if is_told else ""
    slightly = " slightly" if c.is_slight(change) else ""
    return verb, (
        f"{subject} {verb}{slightly} {_span(c, a, b)} between {axis} {c.value(a)} and {c.value(b)}{below}{above}{cost} "
        f"{wording.evidence(change)}"
    )


def _end(c: Comparison, size: float) -> tuple[int, str]:
    """Return where a trend ends, as an index into the steps, and what is said of the steps above."""
    last = len(c.steps) - 1
    for i in range(1, last):
        step, above = c.steps[i], c.steps[i + 1 :]
        if c.is_level(above, step, size):
            return i, ", no further above" if c.is_unclear(above, step) else ", hardly any further above"
    for i in range(1, last):
        step = c.steps[i]
        is_still = c.is_unclear(c.steps[i + 1 :], step) and c.is_slower(c.steps[last], step, size)
        if is_still and c.change(c.steps[0], step).is_clear:
            return i, ", with no clear change above"
    return last, ""


def _start(c: Comparison, end: int, size: float) -> tuple[int, str]:
    """Return where a trend begins, as an index into the steps, and what is said of the steps below."""
    for i in range(end - 1, 0, -1):
        step, below = c.steps[i], c.steps[:i]
        if c.is_level(below, step, size) and c.is_unclear(below, step) and c.change(step, c.steps[end]).is_clear:
            return i, f", level below {c.value(step)}"
    return 0, ""


def _turn(c: Comparison, subject: str, axis: str) -> tuple[str, str] | None:
    """Return a rise that turns into a fall, or the reverse, where both are clear and neither is slight."""
    low, high = c.extremes()
    first, last = c.steps[0], c.steps[-1]
    inner = len(c.steps) - 2
    if inner < 1:
        return None
    level = 1 - (1 - LEVEL) / (2 * inner)
    for step, kind, verbs in ((high, "peaks", ("rises", "falls")), (low, "dips", ("falls", "rises"))):
        if step in (first, last):
            continue
        there, back = c.change(first, step, level), c.change(step, last, level)
        sizes = sorted((abs(there.value or 0.0), abs(back.value or 0.0)))
        if there.is_clear and back.is_clear and sizes[0] > TURN * sizes[1]:
            ends = f"between {axis} {c.value(first)} and {c.value(step)}"
            back_to = f"{wording.pair(c.center(step), c.center(last))[1]} at {c.value(last)}"
            return kind, (
                f"{subject} {verbs[0]} {_span(c, first, step)} {ends}, then {verbs[1]} to {back_to} "
                f"{wording.evidence(c.change(first, step))}"
            )
    return None


def _uneven(c: Comparison, subject: str, axis: str) -> tuple[str, str] | None:
    """Return that two steps differ clearly though the ends don't; None where none do."""
    low, high = c.extremes()
    count = len(c.steps)
    level = 1 - (1 - LEVEL) / (count * (count - 1) / 2)
    if count < 3 or low == high or not c.change(low, high, level).is_clear:
        return None
    return "uneven", (
        f"{subject} has no steady trend over {axis}, but is lowest at {c.value(low)} and highest at {c.value(high)}: "
        f"{_span(c, low, high)} {wording.evidence(c.change(low, high))}"
    )


def _unclear(c: Comparison, subject: str, axis: str) -> tuple[str, str]:
    a, b = c.steps[0], c.steps[-1]
    change = c.change(a, b)
    if change.num_pictures == 0:
        return (
            "not_compared",
            f"no picture has {axis} at both {c.value(a)} and {c.value(b)}; no clear effect on {subject}",
        )
    return (
        "unclear",
        f"no clear effect of {axis} on {subject} from {c.value(a)} to {c.value(b)} {wording.evidence(change)}",
    )


def variance(found: Shares) -> Sentence | None:
    """Return which axis explains how much of a metric; None where nothing is split."""
    if found.picture is None or not found.is_telling:
        return None
    known = {name: share for name, share in found.axes.items() if share is not None}
    terms = sorted(known.items(), key=lambda item: -item[1])
    parts = [f"{name} {_percent(share)}" for name, share in terms]
    rest = (found.interactions or 0.0) + (found.replicates or 0.0)
    if found.has_picture:
        parts.append(f"the picture {_percent(found.picture)}")
    whose = "their " if found.rest_name != "chance" else ""
    parts.append(f"{whose}{found.rest_name} {_percent(rest)}")
    about = "" if found.is_exact else "about "
    metric = describe(found.metric)
    listed = ", ".join(parts[:-1]) + f" and {parts[-1]}"
    note = "" if found.is_separable else "; the axes can't be told apart fully in this table"
    return Sentence(
        found.metric, None, "shares", f"of the variance of {wording.subject(metric)}, {about}{listed}{note}"
    )


def _percent(share: float) -> str:
    return f"{min(max(share, 0.0), 1.0) * 100:.0f} %"  # of an incomplete grid, shares may lie outside
