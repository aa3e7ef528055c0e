"""An output folder as the exports read it: its tables, its configuration, and what each column is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from svd_batch.errors import UserError, store_error
from svd_batch.export.values import plain
from svd_batch.locations import readable
from svd_batch.records import CELL_FIELDS, SCORE_COLUMNS, VideoRecord
from svd_batch.store import Store, read_table

PARAMETERS = (*CELL_FIELDS, "seed", "replicate")
"""What was chosen for a video."""
_DESCRIPTION = {"playback_fps", "num_frames", "height", "width", "num_bytes", "peak_memory_bytes"}
_DESCRIPTION |= {"torch_threads", "batch_size"}
_OURS = {f.name for f in dataclasses.fields(VideoRecord)} | set(SCORE_COLUMNS)


def is_metric(name: str, value: Any) -> bool:
    """Return whether a field says how a video came out: a number or a flag, no parameter, no size, no time."""
    is_number = isinstance(value, (bool, int, float))
    return is_number and name not in PARAMETERS and name not in _DESCRIPTION and not name.endswith("_s")


@dataclass(frozen=True)
class Folder:
    """One output folder."""

    root: Path
    store: Store
    table: pa.Table
    """metadata.parquet."""

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.root.resolve().name

    @cached_property
    def failures(self) -> pa.Table:
        """failures.parquet.

        Raises: UserError where it is damaged; without the file there are none.
        """
        path = self.store.failures_table
        return _read(path) if path.is_file() else pa.table({})

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each video's row as JSON could have it; NaN and infinities are None."""
        for batch in self.table.to_batches(max_chunksize=1000):
            yield from ({k: plain(v) for k, v in row.items()} for row in batch.to_pylist())

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The columns that say what was asked for."""
        return tuple(name for name in PARAMETERS if name in self.table.column_names)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The numeric columns with values that say how a video came out; a manifest's own numbers are none."""
        carried = set(self._images().names) - {"image_id"} - _OURS
        kinds = {f.name: f.type for f in self.table.schema if f.name not in carried}
        examples: dict[str, Any] = {name: 1.0 for name, kind in kinds.items() if _is_numeric(kind)}
        found = (name for name, value in examples.items() if is_metric(name, value))
        return tuple(name for name in found if self.table[name].null_count < self.table.num_rows)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the folder's last run; empty where there is none."""
        return saved_config(self.store)

    @property
    def run_id(self) -> str:
        """The id of the folder's W&B run."""
        return run_id(self.store)

    def is_inside(self, place: Path) -> bool:
        """Return whether a place is one of the files and folders that a run itself writes."""
        if self.store.is_remote:  # and the place is this machine's
            return False
        own = [self.store.internal, self.root / "videos", self.store.metadata, self.store.failures_table]
        return any(place.resolve().is_relative_to(p.resolve()) for p in own) or place.resolve() == self.root.resolve()

    def _images(self) -> pa.Schema:
        path = self.store.plan_dir / "images.parquet"
        try:
            if not path.is_file():
                return pa.schema([])
            with readable(path) as source:
                return pq.read_schema(source)
        except (pa.ArrowException, OSError):
            return pa.schema([])


def saved_config(store: Store) -> dict[str, Any]:
    """Return the configuration of the folder's last run; empty where there is none.

    Raises: UserError where it is damaged.
    """
    path = store.internal / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError):
        raise UserError(f"OUTPUT: {path} is damaged; the same run command writes it anew") from None
    return config if isinstance(config, dict) else {}


def run_id(store: Store) -> str:
    """Return an id that belongs to this folder alone and stays with it: run.json holds its first start."""
    run = store.read_run()
    first = (run.get("runs") or [{}])[0]
    born = [str(first.get(key)) for key in ("started_at", "host")] + [str(run.get("fingerprint"))]
    return hashlib.sha256("\n".join(born).encode()).hexdigest()[:16]


def read_folder(root: Path) -> Folder:
    """Return an output folder with its table.

    Raises: UserError when `root` is no output folder, or its table is damaged.
    """
    store = Store(root)
    if not store.metadata.is_file():
        raise UserError(f"OUTPUT: {root} has no metadata.parquet; give the output folder of a run")
    return Folder(root, store, _read(store.metadata))


def _read(path: Path) -> pa.Table:
    try:
        return read_table(path)
    except (pa.ArrowException, OSError) as error:
        damaged = UserError(f"OUTPUT: {path} is damaged; the same run command writes it anew")
        raise store_error(error) or damaged from None


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
