"""A finished folder to one HTML page. Needs neither torch nor ray.

Reads metadata.parquet and failures.parquet alone; videos stay where they are and are linked relatively.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from svd_batch import dataset
from svd_batch.errors import UserError
from svd_batch.records import CELL_FIELDS
from svd_batch.store import Store, flush, move

_AXES = (*CELL_FIELDS, "replicate")


def write_report(root: Path) -> Path:
    """Write OUTPUT/report.html and return its path.

    Raises: UserError when `root` is no output folder with a table.
    """
    store = Store(root)
    if not store.metadata.is_file():
        raise UserError(f"report: {root} has no metadata.parquet; give the output folder of a run")
    try:
        rows = pq.read_table(store.metadata).to_pylist()
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
    # Lists of seeds may grow by separate runs, and then two seeds share a replicate.
    told_apart = {(row["image_id"], *(row[axis] for axis in _AXES)) for row in rows}
    axes = _AXES if len(told_apart) == len(rows) else (*CELL_FIELDS, "seed")
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
        "constant": {axis: values[axis][0] for axis in axes if len(values[axis]) == 1},
        "images": list(images.values()),
        "generate_s": sum(row["generate_s"] for row in rows),
    }


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
