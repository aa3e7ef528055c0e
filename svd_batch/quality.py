"""Presets of approximations, and what a cell says of itself: its label and the preset that it amounts to. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from svd_batch.records import EXACT, CellValue, SweepCell
from svd_batch.sweep import AYS10_STEPS

PRESETS: Mapping[str, Mapping[str, CellValue]] = {
    "final": {},
    "preview": {
        "sampler": "ays10",
        "num_inference_steps": AYS10_STEPS,
        "guidance_sigma_min": 0.1,
        "guidance_sigma_max": 50.0,
    },
    "draft": {
        "sampler": "ays10",
        "num_inference_steps": AYS10_STEPS,
        "guidance_sigma_min": 0.3,
        "guidance_sigma_max": 50.0,
        "deep_cache_interval": 2,
    },
}
"""What each `quality=` puts over the generation settings, as conf/quality/ has it; docs/log.md has what they cost."""


def in_quality(cell: SweepCell, preset: str) -> SweepCell:
    """Return the cell with the preset's values; `final` leaves it as it is."""
    return dataclasses.replace(cell, **PRESETS[preset])  # type: ignore[arg-type]


def quality_of(cell: SweepCell) -> str:
    """Return the name of the preset whose approximations are the cell's, or `custom`."""
    values = {name: getattr(cell, name) for name in EXACT}
    for name, preset in PRESETS.items():
        if values == {k: preset.get(k, exact) for k, exact in EXACT.items()}:
            return name
    return "custom"


def approximations(cell: SweepCell) -> str | None:
    """Return what is approximated, `ays10, deep_cache_interval=3, guidance in 1 <= sigma <= 30` say, or None."""
    differing = {name for name, exact in EXACT.items() if getattr(cell, name) != exact}
    parts = [cell.sampler] if "sampler" in differing else []
    if "deep_cache_interval" in differing:
        parts.append(f"deep_cache_interval={cell.deep_cache_interval}")
    low = f"{cell.guidance_sigma_min:g} <= " if "guidance_sigma_min" in differing else ""
    high = f" <= {cell.guidance_sigma_max:g}" if "guidance_sigma_max" in differing else ""
    if low or high:
        parts.append(f"guidance in {low}sigma{high}")
    return ", ".join(parts) or None
