"""What can be sorted and filtered by: metrics, scores and costs, as the page names them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from svd_batch.report.folders import Sweep


@dataclass(frozen=True)
class Measure:
    """One column of numbers or flags."""

    name: str
    title: str
    unit: str = ""
    better: str | None = None
    """`high`, `low`, or None where neither is better in itself."""
    is_flag: bool = False
    is_metric: bool = True
    """Whether it says something of the clip rather than of what it cost."""


METRICS = (
    Measure("motion", "motion", "px a frame"),
    Measure("motion_top5", "motion of the fastest 5 %", "px a frame"),
    Measure("motion_fraction", "relative motion", "of the diagonal a frame"),
    Measure("motion_top5_fraction", "relative motion of the fastest 5 %", "of the diagonal a frame"),
    Measure("camera_motion", "camera motion", "px a frame"),
    Measure("object_motion", "object motion", "px a frame"),
    Measure("flicker", "flicker", better="low"),
    Measure("smoothness", "smoothness", better="high"),
    Measure("likeness", "likeness to the picture", "SSIM", "high"),
    Measure("likeness_last", "likeness of the last frame", "SSIM", "high"),
    Measure("psnr_first", "PSNR of the first frame", "dB", "high"),
    Measure("psnr_last", "PSNR of the last frame", "dB", "high"),
    Measure("clip_likeness", "CLIP likeness", "cosine", "high"),
    Measure("clip_consistency", "CLIP consistency", "cosine", "high"),
    Measure("sharpness", "sharpness", better="high"),
    Measure("brightness_drift", "brightness drift"),
    Measure("contrast_drift", "contrast drift"),
    Measure("saturation_drift", "saturation drift"),
    Measure("loop_closure", "loop closure"),
    Measure("refine_score", "refine's score"),
    Measure("dynamic_degree", "dynamic", is_flag=True),
    Measure("is_frozen", "frozen", better="low", is_flag=True),
    Measure("is_broken", "broken", better="low", is_flag=True),
)
COSTS = (
    Measure("generate_s", "generation", "s", "low", is_metric=False),
    Measure("num_bytes", "file size", "bytes", "low", is_metric=False),
)


def measures(sweep: Sweep) -> Iterator[Measure]:
    """Yield what the table has values of; a column of text under a metric's name is none."""
    for measure in (*METRICS, *COSTS):
        if sweep.has(measure.name) and str(sweep.table[measure.name].type) in _NUMBERS:
            yield measure


_NUMBERS = {"bool", "float", "double", "halffloat", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"}
