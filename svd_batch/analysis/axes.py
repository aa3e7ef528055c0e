"""Which parameters vary in a sweep: its axes, with their values, and what always changes together with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from svd_batch.analysis.videos import Codes, Videos, encode
from svd_batch.records import CELL_FIELDS, EXACT, CellValue
from svd_batch.sweep import CHOICES

MAX_VALUES = 100
"""An axis of more values than this is grouped into as many steps."""


@dataclass(frozen=True)
class Axis:
    """One parameter that varies."""

    name: str
    values: tuple[CellValue, ...]
    """In ascending order; words in the order in which they come."""
    also: tuple[str, ...] = ()
    """Parameters that change whenever this one does, so that nothing can tell their effects apart."""
    is_grouped: bool = False
    """Each value stands for a group of neighbouring ones, whose median it is."""

    @property
    def is_ordered(self) -> bool:
        """Return whether the values are numbers."""
        return not isinstance(self.values[0], str)


@dataclass(frozen=True, eq=False)
class AxisCodes:
    """An axis and each video's place on it, (N,)."""

    axis: Axis
    codes: Codes


def find_axes(videos: Videos) -> list[AxisCodes]:
    """Return the axes of a sweep: folders first, then quality, then the fields of a cell, each only if it varies."""
    if not len(videos):
        return []
    fields = {name: encode(videos.table[name]) for name in ("output", *CELL_FIELDS)}
    presets = _presets(videos, fields)
    if presets is not None:
        fields = {"output": fields.pop("output"), "quality": presets, **fields}
    varying = {name: codes for name, (codes, values) in fields.items() if len(values) > 1}
    also: dict[str, list[str]] = {}
    for name, codes in varying.items():
        master = next((m for m in also if _goes_along(m, varying[m], codes)), None)
        if master is None:
            also[name] = []
        else:
            also[master].append(name)
    return [_axis(name, *fields[name], tuple(others)) for name, others in also.items()]


def _presets(videos: Videos, fields: Mapping[str, tuple[Codes, list[object]]]) -> tuple[Codes, list[object]] | None:
    """Return the column `quality` where it may stand for the fields that it sets: each word for one set of values."""
    if "quality" not in videos.table.column_names:
        return None
    codes, values = encode(videos.table["quality"])
    if len(values) < 2 or not {str(v) for v in values} <= {"final", "preview", "draft"}:
        return None
    own = ("num_inference_steps", *EXACT)
    return (codes, values) if all(_is_function(codes, fields[name][0]) for name in own) else None


def _goes_along(master_name: str, master: Codes, codes: Codes) -> bool:
    """Return whether a parameter's value follows from another's; of two fields of a cell each from the other's."""
    follows = _is_function(master, codes)
    return follows and (master_name in ("output", "quality") or _is_function(codes, master))


def _is_function(of: Codes, codes: Codes) -> bool:
    pairs = np.unique(of * (int(codes.max()) + 1) + codes)
    return len(pairs) == len(np.unique(of))


def _axis(name: str, codes: Codes, values: list[object], also: tuple[str, ...]) -> AxisCodes:
    if name in CHOICES or name in ("output", "quality"):
        return AxisCodes(Axis(name, tuple(str(v) for v in values), also), codes)
    numbers = np.asarray(values, np.float64)
    is_grouped = len(values) > MAX_VALUES
    if is_grouped:
        group = np.arange(len(values)) * MAX_VALUES // len(values)
        codes = group[codes]
        numbers = np.array([np.median(numbers[group == g]) for g in range(MAX_VALUES)])
    whole = bool((numbers == np.round(numbers)).all())
    return AxisCodes(Axis(name, tuple(int(v) if whole else float(v) for v in numbers), also, is_grouped), codes)
