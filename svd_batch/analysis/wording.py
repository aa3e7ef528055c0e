"""Figures in words: numbers with few digits, units, pictures, axes."""

from __future__ import annotations

import math

from svd_batch.analysis.axes import Axis
from svd_batch.analysis.bootstrap import FEW_PICTURES, Estimate
from svd_batch.analysis.names import Metric
from svd_batch.records import CellValue

_GROUP_DIGITS = 4


def number(value: float, step: float | None = None) -> str:
    """Return a number with two digits, or with as many as tell it from others `step` apart."""
    if not math.isfinite(value):
        return str(value)
    size = abs(step if step else value)
    if size == 0:
        return "0"
    digits = 1 - math.floor(math.log10(size * (1 + 1e-9)))
    if -2 <= digits <= 6:
        text = f"{value:.{max(digits, 0)}f}"
        if step is None and "." in text:
            text = text.rstrip("0").rstrip(".")
        return "0" if float(text) == 0 else text
    return f"{value:.2g}"


def pair(a: float, b: float) -> tuple[str, str]:
    """Return two numbers with digits enough to tell them apart."""
    return number(a, b - a), number(b, b - a)


def signed(value: float) -> str:
    """Return a number with its sign."""
    text = number(value)
    return text if text.startswith("-") or text == "0" else f"+{text}"


def with_unit(text: str, metric: Metric) -> str:
    """Return a figure with its unit behind it, or with the index that it is measured by."""
    if metric.unit:
        return f"{text} {metric.unit}"
    return f"{text} ({metric.scale})" if metric.scale else text


def amount(text: str, metric: Metric) -> str:
    """Return a difference as so much of the metric, as in `0.08 of likeness (SSIM)`."""
    if metric.unit:
        return f"{text} {metric.unit} of {metric.title}"
    return f"{text} of {metric.title}" + (f" ({metric.scale})" if metric.scale else "")


def subject(metric: Metric) -> str:
    """Return what rises or falls: the metric, or the share of clips with a flag."""
    return f"the fraction of {metric.title}" if metric.is_flag else metric.title


def shown(value: CellValue, axis: Axis) -> str:
    """Return an axis value; that of a group with few digits, as it is only its median."""
    if isinstance(value, str):
        return value
    return f"{value:.{_GROUP_DIGITS}g}" if axis.is_grouped else f"{value:g}"


def axis_name(axis: Axis) -> str:
    """Return an axis with what changes along with it."""
    return axis.name + (f" (together with {', '.join(axis.also)})" if axis.also else "")


def evidence(change: Estimate) -> str:
    """Return the change with its interval and the number of pictures, in brackets."""
    pictures = f"{change.num_pictures} pictures" if change.num_pictures != 1 else "1 picture"
    if change.value is None or change.low is None or change.high is None:
        return f"({pictures})"
    few = "; too few pictures to be sure" if change.num_pictures < FEW_PICTURES else ""
    return (
        f"(change {signed(change.value)}, 95 % interval {signed(change.low)} to {signed(change.high)}, {pictures}{few})"
    )
