"""Tables as finished sweeps have them, with metrics of known answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from builders import make_record

from svd_batch.analysis import Videos, videos_of
from svd_batch.records import flat

Row = dict[str, Any]
"""A row's values, with `picture`, the picture's number."""


def sweep_table(
    axes: Mapping[str, Sequence[Any]],
    *,
    pictures: int = 8,
    replicates: int = 1,
    keep: Callable[[Row], bool] = lambda row: True,
    metrics: Mapping[str, Callable[[Row], Any]],
    **constant: Any,
) -> pa.Table:
    """Return the table of a grid; `keep` says which videos were made, `metrics` what each gives."""
    rows = []
    template = flat(make_record())
    for picture, *values, replicate in itertools.product(range(pictures), *axes.values(), range(replicates)):
        row: Row = {**template, **constant, **dict(zip(axes, values, strict=True))}
        row |= {"picture": picture, "image_id": f"img{picture:04}", "replicate": replicate}
        if keep(row):
            rows.append(row | {"video_id": f"{len(rows):020x}"} | {n: metric(row) for n, metric in metrics.items()})
    if not rows:
        return pa.table({name: pa.array([], pa.infer_type([value])) for name, value in template.items()})
    return pa.Table.from_pylist([{k: v for k, v in row.items() if k != "picture"} for row in rows])


def sweep(*arguments: Any, **options: Any) -> Videos:
    """Return the videos of such a table."""
    return videos_of({"pets": sweep_table(*arguments, **options)})


def write_output(root: Path, table: pa.Table) -> Path:
    """Write a table where an output folder has it, and return the folder."""
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / "metadata.parquet")
    return root


def noise(scale: float, seed: int = 0) -> Callable[[Row], float]:
    """Return a metric that is nothing but chance."""
    rng = np.random.default_rng(seed)
    return lambda row: float(rng.normal(0, scale))
