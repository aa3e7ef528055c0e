"""The metrics of a clip: what each is called, means and ranges over, and measuring a list of them.

A metric is one function in this package whose docstring says its title, unit, range, formula and source; put into
`_FUNCTIONS` it is a column of metadata.parquet, a choice of `metrics.names` and a line of docs/metrics.md. Knows no
torch and no disk; OpenCV is imported when a metric is measured.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from svd_batch.errors import UserError
from svd_batch.metrics import exposure, flow, likeness
from svd_batch.metrics.clip import Clip, Embeddings

__all__ = ["METRICS", "Clip", "Embeddings", "Measured", "Metric", "check_names", "measure", "use_one_thread"]

Value = float | bool


@dataclass(frozen=True)
class Metric:
    """One metric, as its function's docstring describes it."""

    name: str
    title: str
    """What people call it."""
    description: str
    unit: str
    low: float
    high: float
    """The ends of its range, infinite where there is none; a flag's are 0 and 1."""
    better: str | None
    """`higher`, `lower`, or None where neither end is."""
    formula: str
    source: str
    is_flag: bool
    """Whether it is true or false instead of a number."""
    needs: tuple[str, ...]
    """What of `picture` and `embeddings` it needs beside the frames."""
    least_frames: int
    measure: Callable[..., Value | None]

    @property
    def short_unit(self) -> str:
        """The unit behind a figure: without its scale, which docs/metrics.md states, and nothing for a fraction."""
        return "" if self.unit == "fraction" else re.split(" at a height of | of 255", self.unit)[0]

    def can_measure(self, clip: Clip) -> bool:
        """Return whether the clip has all that this metric needs."""
        return len(clip.frames) >= self.least_frames and all(getattr(clip, part) is not None for part in self.needs)


_KEY = re.compile(r"^(Title|Unit|Range|Better|Frames|Formula|Source): ", re.MULTILINE)


def described(function: Callable[..., Value | None]) -> Metric:
    """Return the metric that a function measures, from its name, signature and docstring.

    The parameters after `clip` name what it needs besides the frames; a return type of bool makes it a flag.
    """
    doc = inspect.getdoc(function)
    if doc is None:
        raise RuntimeError("metrics are described by their docstrings, which python -OO drops; run without it")
    opening, *rest = _KEY.split(doc)
    keys = {key: " ".join(text.split()) for key, text in zip(rest[::2], rest[1::2], strict=True)}
    low, high = (float(end) for end in keys["Range"].split(" to "))
    needs = tuple(inspect.signature(function).parameters)[1:]
    return Metric(
        name=function.__name__,
        title=keys["Title"],
        description=" ".join(opening.split()).removeprefix("Return "),
        unit=keys["Unit"],
        low=low,
        high=high,
        better=None if keys["Better"] == "neither" else keys["Better"],
        formula=keys["Formula"],
        source=keys["Source"],
        is_flag="bool" in str(function.__annotations__["return"]),
        needs=needs,
        least_frames=int(keys.get("Frames", 1)),
        measure=function,
    )


_FUNCTIONS: tuple[Callable[..., Value | None], ...] = (
    flow.motion,
    flow.motion_top5,
    flow.motion_fraction,
    flow.motion_top5_fraction,
    flow.camera_motion,
    flow.object_motion,
    flow.dynamic_degree,
    flow.flicker,
    flow.smoothness,
    likeness.likeness,
    likeness.likeness_last,
    likeness.psnr_first,
    likeness.psnr_last,
    likeness.clip_likeness,
    likeness.clip_consistency,
    exposure.sharpness,
    exposure.brightness_drift,
    exposure.contrast_drift,
    exposure.saturation_drift,
    likeness.loop_closure,
    flow.is_frozen,
    exposure.is_broken,
)

METRICS: dict[str, Metric] = {function.__name__: described(function) for function in _FUNCTIONS}
"""Every metric by its name, in the order of the table's columns."""


def check_names(where: str, names: Iterable[object]) -> tuple[str, ...]:
    """Return the metrics named, each once, in the order of METRICS.

    Raises: UserError for a name that is no metric's.
    """
    asked = list(names)
    for name in asked:
        if not isinstance(name, str) or name not in METRICS:
            close = difflib.get_close_matches(str(name), METRICS, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}? The metrics are" if close else "the metrics are"
            raise UserError(f"{where}: {name!r} is not accepted; {hint} {', '.join(METRICS)}")
    return tuple(name for name in METRICS if name in asked)


def use_one_thread() -> None:
    """Keep OpenCV's other threads off the cores that denoise; counts for the whole process."""
    import cv2

    cv2.setNumThreads(1)


@dataclass(frozen=True)
class Measured:
    """What came of measuring a clip."""

    values: dict[str, Value]
    """Of those that could be measured; never NaN or infinite."""
    errors: dict[str, tuple[str, ...]]
    """What went wrong, with the metrics that it kept from being measured."""


def measure(clip: Clip, names: Iterable[str]) -> Measured:
    """Return the named metrics of a clip; one that fails or lacks what it needs is left out, and none raises."""
    values: dict[str, Value] = {}
    errors: dict[str, tuple[str, ...]] = {}
    for metric in (METRICS[name] for name in names):
        if not metric.can_measure(clip):
            continue
        try:
            value = metric.measure(clip, *(getattr(clip, part) for part in metric.needs))
        except Exception as error:  # the boundary of one metric: a video is never lost by one
            text = " ".join(f"{type(error).__name__}: {error}".split())
            errors[text] = (*errors.get(text, ()), metric.name)
            continue
        if value is not None and math.isfinite(value):
            values[metric.name] = bool(value) if metric.is_flag else float(value)
    return Measured(values, errors)
