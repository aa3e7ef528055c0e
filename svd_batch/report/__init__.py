"""A finished folder to one HTML page. Needs neither torch nor ray.

Reads metadata.parquet and failures.parquet alone; videos stay where they are and are linked relatively.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from svd_batch import dataset
from svd_batch.errors import UserError
from svd_batch.records import CELL_FIELDS, EXACT
from svd_batch.store import Store, flush, move

_PRESET = {"num_inference_steps", *EXACT}
"""What a preset of quality may set."""


def write_report(root: Path) -> Path:
    """Write OUTPUT/report.html and return its path.

    Raises: UserError when `root` is no output folder with a table.
    """
    store = Store(root)
    if not store.metadata.is_file():
        raise UserError(f"report: {root} has no metadata.parquet; give the output folder of a run")
    try:
        # tables of before there were approximations lack their columns
        rows = [{**EXACT, "quality": "final", **row} for row in pq.read_table(store.metadata).to_pylist()]
        failures = dataset.read_failures(store)
    except pa.ArrowException:
        raise UserError(f"report: a table in {root} is damaged; the same run command writes it anew") from None
    html = _template().render(name=root.resolve().name, failures=failures, **page(rows))
    temporary = store.temporary("html")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(html, encoding="utf-8")
    flush(temporary)
    path = root / "report.html"
    move(temporary, path)
    return path


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("svd_batch.report", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = _number
    return environment.get_template("report.html")


def page(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the template shows: the axes that vary, and for each image a grid of clips.

    The axis with the most values runs across; every combination of the others is a row.
    """
    axes = _axes(rows)
    values = {axis: sorted({row[axis] for row in rows}) for axis in axes}
    varying = [axis for axis in axes if len(values[axis]) > 1]
    across = max(varying, key=lambda axis: len(values[axis]), default="motion_bucket_id")
    down = [axis for axis in varying if axis != across]
    images: dict[str, dict[str, Any]] = {}
    for row in rows:
        caption = row.get("caption") or row["image_path"]
        image = images.setdefault(row["image_id"], {"id": row["image_id"], "caption": caption, "cells": {}})
        image["cells"].setdefault(tuple(row[axis] for axis in down), {})[row[across]] = row
    for image in images.values():
        image["cells"] = dict(sorted(image["cells"].items()))
    return {
        "num_videos": len(rows),
        "model": rows[0]["model_id"] if rows else "",
        "shape": (rows[0]["num_frames"], rows[0]["width"], rows[0]["height"]) if rows else None,
        "across": across,
        "across_values": values[across],
        "down": down,
        "constant": _constant(rows, axes),
        "images": list(images.values()),
        "generate_s": sum(row["generate_s"] for row in rows),
    }


def _axes(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the columns that may be axes: the presets' names where each stands for one set of values."""
    fields = (*CELL_FIELDS, "replicate")
    candidates = [fields]
    qualities = {row["quality"] for row in rows}
    if len(qualities) > 1 and "custom" not in qualities:
        candidates.insert(0, (*(name for name in CELL_FIELDS if name not in _PRESET), "quality", "replicate"))
    for axes in candidates:
        if len({(row["image_id"], *(row[axis] for axis in axes)) for row in rows}) == len(rows):
            return axes
    return (*CELL_FIELDS, "seed")  # lists of seeds may grow by separate runs, and then two seeds share a replicate


def _constant(rows: list[dict[str, Any]], axes: Sequence[str]) -> dict[str, Any]:
    """Return what is the same for all rows, approximations only where there are any."""
    names = dict.fromkeys(name for name in (*CELL_FIELDS, *axes) if name != "quality")
    alike = {name: rows[0][name] for name in names if len({row[name] for row in rows}) == 1}
    return {name: value for name, value in alike.items() if name not in EXACT or value != EXACT[name]}


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
