"""Which parameters vary: the axes of the grid, and what is the same for all videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from svd_batch.records import CELL_FIELDS, EXACT
from svd_batch.report.folders import OUTPUT, Sweep

_PRESET = {"num_inference_steps", *EXACT}
"""What a preset of quality may set."""
_LEADING = (OUTPUT, "quality")
"""What others may follow from without leading back: two folders may have been made with as many steps."""


@dataclass(frozen=True)
class Axis:
    """One parameter that takes several values."""

    name: str
    values: tuple[Any, ...]
    also: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Parameters that follow from this one, each with its values beside `values`: with axes of their own, the grid
    would have holes wherever they disagree."""

    @property
    def label(self) -> str:
        """Return the name with what follows from it."""
        return self.name + (f" ({', '.join(self.also)})" if self.also else "")


def varying_axes(sweep: Sweep) -> list[Axis]:
    """Return the axes with more than one value: folders first, then those with most values, else in a cell's order.

    Folders come in the order that they were given in, all other values sorted.
    """
    columns = _axis_columns(sweep.table)
    axes = [Axis(name, _values(sweep, name)) for name in sorted(columns, key=lambda name: name not in _LEADING)]
    varying = _merged(sweep.table, [axis for axis in axes if len(axis.values) > 1])
    return sorted(varying, key=lambda axis: (axis.name != OUTPUT, -len(axis.values), columns.index(axis.name)))


def _values(sweep: Sweep, name: str) -> tuple[Any, ...]:
    found = pc.unique(sweep.table[name]).to_pylist()
    if name == OUTPUT:
        return tuple(folder.name for folder in sweep.folders if folder.name in found)
    return tuple(sorted(found, key=lambda value: (value is None, value)))


def _merged(table: pa.Table, axes: Iterable[Axis]) -> list[Axis]:
    """Return the axes without those that follow from an earlier one, which has them as `also`."""
    found: list[Axis] = []
    for axis in axes:
        for i, leading in enumerate(found):
            beside = _beside(table, leading, axis)
            if beside is not None:
                found[i] = dataclasses.replace(leading, also={**leading.also, axis.name: beside})
                break
        else:
            found.append(axis)
    return found


def _beside(table: pa.Table, leading: Axis, axis: Axis) -> tuple[Any, ...] | None:
    """Return the axis's value at each of the leading one's; None where it doesn't follow from that one."""
    pairs = table.group_by([leading.name, axis.name]).aggregate([])
    leads_back = pairs.num_rows == len(axis.values)
    if pairs.num_rows > len(leading.values) or not (leads_back or leading.name in _LEADING):
        return None
    values = dict(zip(pairs[leading.name].to_pylist(), pairs[axis.name].to_pylist(), strict=True))
    return tuple(values[value] for value in leading.values)


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
