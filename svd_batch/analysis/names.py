"""What the metric columns are called in words, their units, and which direction is the better one.

The only place of the analysis that knows single metrics; any other numeric column works too, under its own name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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


_METRICS = (
    Metric("motion", "motion", "px a frame"),
    Metric("motion_top5", "motion of the fastest 5 %", "px a frame"),
    Metric("motion_fraction", "relative motion", "of the diagonal a frame"),
    Metric("motion_top5_fraction", "relative motion of the fastest 5 %", "of the diagonal a frame"),
    Metric("camera_motion", "camera motion", "px a frame"),
    Metric("object_motion", "object motion", "px a frame"),
    Metric("dynamic_degree", "dynamic clips", is_flag=True),
    Metric("flicker", "flicker", better="low"),
    Metric("smoothness", "smoothness", better="high"),
    Metric("likeness", "likeness", better="high", scale="SSIM"),
    Metric("likeness_last", "likeness of the last frame", better="high", scale="SSIM"),
    Metric("psnr_first", "PSNR of the first frame", "dB", better="high"),
    Metric("psnr_last", "PSNR of the last frame", "dB", better="high"),
    Metric("clip_likeness", "CLIP likeness", better="high", scale="cosine"),
    Metric("clip_consistency", "CLIP consistency", better="high", scale="cosine"),
    Metric("sharpness", "sharpness", better="high"),
    Metric("brightness_drift", "brightness drift"),
    Metric("contrast_drift", "contrast drift"),
    Metric("saturation_drift", "saturation drift"),
    Metric("loop_closure", "loop closure"),
    Metric("is_frozen", "frozen clips", better="low", is_flag=True),
    Metric("is_broken", "broken clips", better="low", is_flag=True),
)
_BY_NAME = {metric.name: metric for metric in _METRICS}
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
