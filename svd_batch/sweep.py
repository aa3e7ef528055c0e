"""Sweep axes to ordered SweepCells. Pure: standard library only."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from svd_batch.errors import UserError
from svd_batch.records import CELL_FIELDS, SweepCell

_INT_FIELDS = {f.name for f in dataclasses.fields(SweepCell) if f.type == "int"}
_MINIMUM: dict[str, float] = {
    "motion_bucket_id": 0,
    "noise_aug_strength": 0.0,
    "fps": 1,
    "num_inference_steps": 1,
    "min_guidance_scale": 0.0,
    "max_guidance_scale": 0.0,
    "decode_chunk_size": 1,
}
_MAXIMUM: dict[str, float] = {
    "motion_bucket_id": 1023,
    "noise_aug_strength": 100.0,
    "fps": 240,
    "num_inference_steps": 1000,
    "min_guidance_scale": 100.0,
    "max_guidance_scale": 100.0,
    "decode_chunk_size": 1024,
}
TRAINED_MOTION_BUCKETS = 255
"""SVD saw motion_bucket_id 0..255 in training; larger values run but mean nothing that was learned."""

MAX_AXIS_VALUES = 10_000


def cell_value(name: str, value: Any, where: str | None = None) -> int | float:
    """Return `value` as the type that cell field `name` has.

    Whole floats count as integers (pandas turns an integer column with nulls into floats).

    Raises: UserError naming the field (`where` when given), the value and what is accepted.
    """
    kind = "a whole number" if name in _INT_FIELDS else "a number"
    low, high = _MINIMUM[name], _MAXIMUM[name]
    refusal = UserError(f"{where or name}: {value!r} is not accepted; give {kind} from {low:g} to {high:g}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:  # NaN is refused too
        raise refusal
    if name in _INT_FIELDS and value != int(value):
        raise refusal
    return int(value) if name in _INT_FIELDS else float(value) + 0.0  # -0.0 becomes 0.0, so that ids are the same


def check_cell(cell: SweepCell, where: str = "sweep") -> SweepCell:
    """Return the cell itself if its fields fit together.

    Raises: UserError when the minimum guidance exceeds the maximum (stock diffusers' guidance ramp then
    runs backwards and its on/off test no longer matches).
    """
    if cell.min_guidance_scale > cell.max_guidance_scale:
        raise UserError(
            f"{where}: min_guidance_scale={cell.min_guidance_scale:g} is above "
            f"max_guidance_scale={cell.max_guidance_scale:g}; give a minimum that is at most the maximum"
        )
    return cell


def _range_values(name: str, text: str, where: str) -> list[int | float]:
    """Return the values of `start:stop:step`, stop included; decimals, since three floats of 0.1 make more than 0.3."""
    form = f"{where}: {text!r} is not accepted; give a number, a list or start:stop:step"
    try:
        start, stop, step = (Decimal(part.strip()) for part in text.split(":"))
    except (InvalidOperation, ValueError):
        raise UserError(form) from None
    if not all(d.is_finite() for d in (start, stop, step)):
        raise UserError(form)
    if step == 0 or (stop - start) * step < 0:
        raise UserError(f"{where}: {text!r} never reaches its stop; give a step that leads from start to stop")
    count = (stop - start) / step
    if count >= MAX_AXIS_VALUES:
        raise UserError(f"{where}: {text!r} has too many values; give at most {MAX_AXIS_VALUES}")
    if count != count.to_integral_value():
        last = start + step * int(count)
        raise UserError(
            f"{where}: {text!r} steps over its stop; end at {last.normalize():f} or {(last + step).normalize():f}, "
            "since the stop is included"
        )
    values = [start + step * i for i in range(int(count) + 1)]
    return [cell_value(name, float(v), where) for v in values]


def axis_values(name: str, value: Any) -> tuple[int | float, ...]:
    """Return the values of one sweep axis, in the order given.

    `value`: a number, a list of numbers, or "start:stop:step" with the stop included.

    Raises: UserError for an unknown form, an empty axis, a repeated value or one out of range.
    """
    where = f"sweep.{name}"
    if isinstance(value, str):
        values = _range_values(name, value, where)
    elif isinstance(value, Sequence):
        values = [cell_value(name, v, where) for v in value]
    else:
        values = [cell_value(name, value, where)]
    if not values:
        raise UserError(f"{where}: the axis is empty; give at least one value or leave the axis out")
    if len(values) > MAX_AXIS_VALUES:
        raise UserError(f"{where}: the axis has {len(values)} values; give at most {MAX_AXIS_VALUES}")
    repeated = [v for i, v in enumerate(values) if v in values[:i]]
    if repeated:
        raise UserError(f"{where}: the value {repeated[0]:g} is there twice; give each value once")
    return tuple(values)


def _listed_cells(default: SweepCell, cells: Any) -> list[SweepCell]:
    if isinstance(cells, (str, Mapping)) or not isinstance(cells, Sequence) or not cells:
        raise UserError(f"sweep.cells: {cells!r} is not accepted; give a list such as [{{motion_bucket_id: 20}}]")
    result: list[SweepCell] = []
    for i, row in enumerate(cells):
        where = f"sweep.cells[{i}]"
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: {row!r} is not accepted; give a mapping such as {{motion_bucket_id: 20}}")
        unknown = [k for k in row if k not in CELL_FIELDS]
        if unknown:
            raise UserError(f"{where}: unknown key {unknown[0]}; the keys are {', '.join(CELL_FIELDS)}")
        values = {k: cell_value(k, v, f"{where}.{k}") for k, v in row.items()}
        cell = check_cell(dataclasses.replace(default, **values), where)  # type: ignore[arg-type]
        if cell in result:
            raise UserError(f"{where}: repeats sweep.cells[{result.index(cell)}]; give each cell once")
        result.append(cell)
    return result


def expand(default: SweepCell, axes: Mapping[str, Any], cells: Any = None) -> tuple[SweepCell, ...]:
    """Return the cells of a sweep, in order: the last axis varies fastest.

    `axes` maps cell fields to axis values (None: not swept), `cells` lists cells one by one, each a mapping of the
    fields that differ from `default`; one or the other. Neither gives the single default cell.

    Raises: UserError.
    """
    given = {k: v for k, v in axes.items() if v is not None}
    if cells is not None and given:
        raise UserError(f"sweep: cells and the axis {next(iter(given))} exclude each other; give one or the other")
    if cells is not None:
        return tuple(_listed_cells(default, cells))
    names = [name for name in CELL_FIELDS if name in given]
    values = [axis_values(name, given[name]) for name in names]
    num_cells = math.prod(len(v) for v in values)
    if num_cells > 1_000_000:
        raise UserError(f"sweep: the grid has {num_cells} cells; give at most 1000000")
    products: Iterable[tuple[int | float, ...]] = itertools.product(*values)
    return tuple(
        check_cell(dataclasses.replace(default, **dict(zip(names, combination, strict=True))))  # type: ignore[arg-type]
        for combination in products
    )


def apply_fixed(cells: Sequence[SweepCell], fixed: Iterable[tuple[str, float]]) -> tuple[SweepCell, ...]:
    """Return the cells with the fields that a manifest row fixes; cells that become equal merge, order kept."""
    values = dict(fixed)
    if not values:
        return tuple(cells)
    replaced = (dataclasses.replace(cell, **values) for cell in cells)  # type: ignore[arg-type]
    return tuple(dict.fromkeys(replaced))
