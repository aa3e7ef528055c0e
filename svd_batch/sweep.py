"""Sweep axes to ordered SweepCells. Pure: standard library only."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from svd_batch.errors import UserError
from svd_batch.records import CELL_FIELDS, CellValue, SweepCell

_INT_FIELDS = {f.name for f in dataclasses.fields(SweepCell) if f.type == "int"}
_MINIMUM: dict[str, float] = {
    "motion_bucket_id": 0,
    "noise_aug_strength": 0.0,
    "fps": 1,
    "num_inference_steps": 1,
    "min_guidance_scale": 0.0,
    "max_guidance_scale": 0.0,
    "decode_chunk_size": 1,
    "guidance_sigma_min": 0.0,
    "guidance_sigma_max": 0.0,
    "deep_cache_interval": 1,
}
_MAXIMUM: dict[str, float] = {
    "motion_bucket_id": 1023,
    "noise_aug_strength": 100.0,
    "fps": 240,
    "num_inference_steps": 1000,
    "min_guidance_scale": 100.0,
    "max_guidance_scale": 100.0,
    "decode_chunk_size": 1024,
    "guidance_sigma_min": 1000.0,
    "guidance_sigma_max": 1000.0,
    "deep_cache_interval": 1000,
}
CHOICES: dict[str, tuple[str, ...]] = {"sampler": ("euler", "ays10")}
"""The cell fields that are words, with the words that they take."""

AYS10_STEPS = 10
"""Steps of sampler=ays10, fixed by its list of noise levels."""

TRAINED_MOTION_BUCKETS = 255
"""SVD saw motion_bucket_id 0..255 in training; larger values run but mean nothing that was learned."""

MAX_AXIS_VALUES = 10_000


def cell_value(name: str, value: Any, where: str | None = None) -> CellValue:
    """Return `value` as the type that cell field `name` has.

    Whole floats count as integers (pandas turns an integer column with nulls into floats).

    Raises: UserError naming the field (`where` when given), the value and what is accepted.
    """
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise UserError(f"{where or name}: {value!r} is not accepted; give {' or '.join(CHOICES[name])}")
        return str(value)
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
    runs backwards and its on/off test no longer matches), when the band of guidance is empty, and for a number of steps
    that the sampler doesn't have.
    """
    if cell.min_guidance_scale > cell.max_guidance_scale:
        raise UserError(
            f"{where}: min_guidance_scale={cell.min_guidance_scale:g} is above "
            f"max_guidance_scale={cell.max_guidance_scale:g}; give a minimum that is at most the maximum"
        )
    if cell.guidance_sigma_min > cell.guidance_sigma_max:
        raise UserError(
            f"{where}: guidance_sigma_min={cell.guidance_sigma_min:g} is above "
            f"guidance_sigma_max={cell.guidance_sigma_max:g}; give a minimum that is at most the maximum"
        )
    if cell.sampler == "ays10" and cell.num_inference_steps != AYS10_STEPS:
        raise UserError(
            f"{where}: sampler=ays10 has {AYS10_STEPS} steps; num_inference_steps={cell.num_inference_steps} is not "
            f"accepted with it; give {AYS10_STEPS} (`sampler=ays10` by itself sets both) or another sampler"
        )
    return cell


def with_values(cell: SweepCell, values: Mapping[str, CellValue]) -> SweepCell:
    """Return the cell with some fields replaced; sampler=ays10 without a number of steps beside it brings its own."""
    if values.get("sampler") == "ays10" and "num_inference_steps" not in values:
        values = {**values, "num_inference_steps": AYS10_STEPS}
    return dataclasses.replace(cell, **values)  # type: ignore[arg-type]


def _range_values(name: str, text: str, where: str) -> list[CellValue]:
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


def axis_values(name: str, value: Any) -> tuple[CellValue, ...]:
    """Return the values of one sweep axis, in the order given.

    `value`: a number, a list of numbers, or "start:stop:step" with the stop included; words for a field of words.

    Raises: UserError for an unknown form, an empty axis, a repeated value or one out of range.
    """
    where = f"sweep.{name}"
    if isinstance(value, str) and name not in CHOICES:
        values = _range_values(name, value, where)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        values = [cell_value(name, v, where) for v in value]
    else:
        values = [cell_value(name, value, where)]
    if not values:
        raise UserError(f"{where}: the axis is empty; give at least one value or leave the axis out")
    if len(values) > MAX_AXIS_VALUES:
        raise UserError(f"{where}: the axis has {len(values)} values; give at most {MAX_AXIS_VALUES}")
    repeated = [v for i, v in enumerate(values) if v in values[:i]]
    if repeated:
        shown = repeated[0] if isinstance(repeated[0], str) else f"{repeated[0]:g}"
        raise UserError(f"{where}: the value {shown} is there twice; give each value once")
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
        cell = check_cell(with_values(default, values), where)
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
    products: Iterable[tuple[CellValue, ...]] = itertools.product(*values)
    return tuple(
        check_cell(with_values(default, dict(zip(names, combination, strict=True)))) for combination in products
    )


def apply_fixed(cells: Sequence[SweepCell], fixed: Iterable[tuple[str, CellValue]]) -> tuple[SweepCell, ...]:
    """Return the cells with the fields that a manifest row fixes; cells that become equal merge, order kept."""
    values = dict(fixed)
    if not values:
        return tuple(cells)
    return tuple(dict.fromkeys(with_values(cell, values) for cell in cells))
