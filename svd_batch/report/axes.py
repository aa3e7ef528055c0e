"""Which parameters vary: the axes of the grid, and what is the same for all videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from svd_batch.records import CELL_FIELDS, EXACT
from svd_batch.report.folders import OUTPUT, Sweep

_PRESET = {"num_inference_steps", *EXACT}
"""What a preset of quality may set."""


@dataclass(frozen=True)
class Axis:
    """One parameter that takes several values."""

    name: str
    values: tuple[Any, ...]


def varying_axes(sweep: Sweep) -> list[Axis]:
    """Return the axes with more than one value: folders first, then those with most values, else in a cell's order.

    Folders come in the order that they were given in, all other values sorted.
    """
    axes = [Axis(name, _values(sweep, name)) for name in _axis_columns(sweep.table)]
    varying = (axis for axis in axes if len(axis.values) > 1)
    return sorted(varying, key=lambda axis: (axis.name != OUTPUT, -len(axis.values)))


def _values(sweep: Sweep, name: str) -> tuple[Any, ...]:
    found = pc.unique(sweep.table[name]).to_pylist()
    if name == OUTPUT:
        return tuple(folder.name for folder in sweep.folders if folder.name in found)
    return tuple(sorted(found, key=lambda value: (value is None, value)))


def _axis_columns(table: pa.Table) -> tuple[str, ...]:
    """Return the columns that may be axes: the presets' names where each stands for one set of values."""
    candidates: list[tuple[str, ...]] = [(*CELL_FIELDS, "replicate", OUTPUT)]
    qualities = set(pc.unique(table["quality"]).to_pylist())
    if len(qualities) > 1 and "custom" not in qualities:
        fields = (name for name in CELL_FIELDS if name not in _PRESET)
        candidates.insert(0, (*fields, "quality", "replicate", OUTPUT))
    for names in candidates:
        if table.group_by(["image_id", *names]).aggregate([]).num_rows == table.num_rows:
            return names
    return (*CELL_FIELDS, "seed", OUTPUT)  # lists of seeds may grow by separate runs: two then share a replicate


def constants(sweep: Sweep, axes: list[Axis]) -> dict[str, Any]:
    """Return the fields of a cell that are the same for all videos, approximations only where there are any."""
    if not sweep.num_videos:
        return {}
    names = [name for name in CELL_FIELDS if name not in {axis.name for axis in axes}]
    found = {name: pc.unique(sweep.table[name]).to_pylist() for name in names}
    alike = {name: values[0] for name, values in found.items() if len(values) == 1}
    return {name: value for name, value in alike.items() if name not in EXACT or value != EXACT[name]}
