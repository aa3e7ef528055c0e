"""Records to the dataset that people open: metadata.parquet, failures.parquet and the card.

All are written beside and renamed, so that each is whole at any moment.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from svd_batch.config import ModelConfig
from svd_batch.errors import UserError
from svd_batch.images import one_line
from svd_batch.metrics import METRICS
from svd_batch.records import CELL_FIELDS, SCORE_COLUMNS, FailureRecord, VideoRecord, flat
from svd_batch.store import Store, flush, move

_ARROW = {
    "str": pa.string(),
    "str | None": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "float | None": pa.float64(),
}
_TIMES = ("created_at", "started_at")
_METRICS = [(metric.name, pa.bool_() if metric.is_flag else pa.float64()) for metric in METRICS.values()]


def _schema(kind: type) -> pa.Schema:
    """Return the Arrow schema of a record's row, the metrics last; moments become UTC timestamps."""
    names = [f.name for f in dataclasses.fields(kind)]
    fields = [(f.name, _ARROW[str(f.type)]) for f in dataclasses.fields(kind) if f.name != "metrics"]
    fields = [(n, pa.timestamp("ms", "UTC") if n in _TIMES else t) for n, t in fields]
    return pa.schema(fields + (_METRICS if "metrics" in names else []))


def _table(rows: list[Any], kind: type) -> pa.Table:
    return pa.Table.from_pylist([_row(record) for record in rows], schema=_schema(kind))


def _row(record: Any) -> dict[str, Any]:
    row = flat(record)
    times = {name: datetime.fromisoformat(row[name]) for name in _TIMES if row.get(name) is not None}
    return {**row, **times}


def _write(store: Store, table: pa.Table, path: Path) -> None:
    store.check_no_link(path)
    temporary = store.temporary("parquet")
    pq.write_table(table, temporary)
    flush(temporary)
    move(temporary, path)


def save_images(store: Store, carried: pa.Table) -> None:
    """Keep the carried columns of this manifest, and of earlier manifests for images that this one lacks.

    Raises: UserError when a column has changed its type.
    """
    path = store.plan_dir / "images.parquet"
    if path.exists():
        earlier = pq.read_table(path)
        gone = pc.invert(pc.is_in(earlier["image_id"], value_set=carried["image_id"]))
        try:
            carried = pa.concat_tables([carried, earlier.filter(gone)], promote_options="permissive")
        except pa.ArrowException as error:
            raise UserError(
                f"manifest: a column has another type than in this output's earlier manifest: {one_line(error)}"
            ) from None
    _write(store, carried, path)


def _images(store: Store) -> pa.Table:
    path = store.plan_dir / "images.parquet"
    return pq.read_table(path) if path.exists() else pa.table({"image_id": pa.array([], pa.string())})


def save_scores(store: Store, scores: pa.Table) -> None:
    """Keep the columns video_id, refine_metric and refine_score, in place of earlier ones of the same videos."""
    path = store.plan_dir / "scores.parquet"
    if path.exists():
        earlier = pq.read_table(path)
        gone = pc.invert(pc.is_in(earlier["video_id"], value_set=scores["video_id"]))
        scores = pa.concat_tables([scores, earlier.filter(gone)])
    _write(store, scores, path)


def _with_scores(store: Store, table: pa.Table) -> pa.Table:
    """Return the table with the scores that `refine` gave; as it is where there was none."""
    path = store.plan_dir / "scores.parquet"
    if not path.exists():
        return table
    scores = pq.read_table(path)
    indices = pc.index_in(table["video_id"], value_set=scores["video_id"])
    for name in SCORE_COLUMNS:
        table = table.append_column(name, scores[name].take(indices))
    return table


def _beside(left: pa.Table, right: pa.Table) -> pa.Table:
    """Return two tables of as many rows as one."""
    return pa.table([*left.columns, *right.columns], schema=pa.schema([*left.schema, *right.schema]))


def compact(store: Store) -> tuple[int, int]:
    """Write metadata.parquet and failures.parquet from the records; return (videos, pictures with a video)."""
    table, failures = tables(store)
    _write(store, table, store.metadata)
    _write(store, failures, store.failures_table)
    return table.num_rows, len(pc.unique(table["image_id"]))


def tables(store: Store) -> tuple[pa.Table, pa.Table]:
    """Return metadata.parquet and failures.parquet as the records have them now; writes nothing.

    Videos come in manifest order, then by cell and replicate; carried columns follow ours.
    """
    images = _images(store)
    position = {image_id: i for i, image_id in enumerate(images["image_id"].to_pylist())}
    last = len(position)
    records = sorted(
        store.records(),
        key=lambda r: (
            position.get(r.image_id, last),
            r.image_id,
            *(getattr(r, name) for name in CELL_FIELDS),
            r.replicate,
            r.seed,
        ),
    )
    table = _with_scores(store, _table(records, VideoRecord))
    indices = pa.array([position.get(r.image_id) for r in records], pa.int64())
    carried = images.drop_columns("image_id").take(indices)
    carried = carried.rename_columns([_free_name(name, table, images) for name in carried.column_names])
    table = _beside(table, carried)
    return table, _table(store.failures(), FailureRecord)


def _free_name(name: str, table: pa.Table, images: pa.Table) -> str:
    """Return the name of a carried column, another where it became ours after the column was first carried."""
    free = name
    while free in table.column_names or (free != name and free in images.column_names):
        free = f"source_{free}"
    return free


def read_failures(store: Store) -> list[dict[str, Any]]:
    """Return failures.parquet as rows, or none where there is no table."""
    return pq.read_table(store.failures_table).to_pylist() if store.failures_table.exists() else []


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path:
    - metadata.parquet
    - videos/**
license: {license}
tags:
- video
- stable-video-diffusion
- svd_batch
---

# {name}

{num_videos} videos of {num_images} pictures, made by svd_batch with `{model_id}`
(revision `{revision}`): {num_frames} frames of {width}x{height} pixels each.
The weights' licence is {license}{license_note}; the pictures' licences are their owners'.

`metadata.parquet` has one row a video, with every parameter and the seed that reproduces it with stock
diffusers. `failures.parquet` has one row a failed item.

```python
from datasets import load_dataset

dataset = load_dataset("{folder}", split="train")  # reading frames needs torchcodec
```
"""


def write_card(store: Store, model: ModelConfig, revision: str, num_videos: int, num_images: int) -> None:
    """Write README.md, the dataset card that tells Hugging Face datasets where table and videos are."""
    local = Path(model.id).is_absolute()
    note = "" if model.license != "other" or local else f", see https://huggingface.co/{model.id}"
    text = CARD.format(
        name=store.root.resolve().name,
        folder=store.root.resolve().name,
        num_videos=num_videos,
        num_images=num_images,
        model_id=model.id if "/" not in model.id or not Path(model.id).is_absolute() else Path(model.id).name,
        revision=revision,
        num_frames=model.num_frames,
        width=model.width,
        height=model.height,
        license=json.dumps(model.license),
        license_note=note,
    )
    path = store.temporary("md")
    path.write_text(text, encoding="utf-8")
    flush(path)
    move(path, store.root / "README.md")
