"""Where the videos come from: settings, commands, versions, seeds and the files beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from svd_batch.errors import UserError
from svd_batch.report.folders import Folder

_FILES = {
    "metadata.parquet": "a row a video",
    "failures.parquet": "a row a failure",
    "README.md": "the dataset's card",
    ".svd_batch/run.json": "settings and commands",
    ".svd_batch/config.yaml": "the last run's configuration",
}
_MOST_SEEDS = 12
_MOST_RUNS = 20
_VERSIONS = ("svd_batch_version", "diffusers_version", "torch_version", "dtype", "device_name")


@dataclass(frozen=True)
class Provenance:
    """Of one folder."""

    name: str
    models: tuple[tuple[str, str], ...]
    """(model id, revision) as the rows have them."""
    versions: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    """The first of them."""
    num_seeds: int
    settings: dict[str, Any]
    runs: tuple[dict[str, Any], ...]
    """The last ones, newest first."""
    num_runs: int
    config: str | None
    links: tuple[tuple[str, str, str], ...]
    """(file, URL, what it is) of the files that are there."""


def provenance(folder: Folder, page: Path) -> Provenance:
    """Return where a folder's videos come from, as far as the folder still says so."""
    store, table = folder.store, folder.table
    try:
        run = store.read_run()
    except UserError:
        run = {}
    runs = [entry for entry in run.get("runs") or [] if isinstance(entry, dict)]
    config = store.internal / "config.yaml"
    pairs = {(str(m), str(r)) for m, r in zip(*(_list(folder, n) for n in ("model_id", "model_revision")), strict=True)}
    seeds = pc.unique(table["seed"]).to_pylist() if "seed" in table.column_names else []
    return Provenance(
        name=folder.name,
        models=tuple(sorted(pairs)),
        versions={name: _distinct(folder, name) for name in _VERSIONS if table.num_rows and name in table.column_names},
        seeds=tuple(seeds[:_MOST_SEEDS]),
        num_seeds=len(seeds),
        settings=run.get("settings") or {},
        runs=tuple(reversed(runs[-_MOST_RUNS:])),
        num_runs=len(runs),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None,
        links=tuple(
            (name, folder.href(page) + name, what) for name, what in _FILES.items() if (store.root / name).is_file()
        ),
    )


def _list(folder: Folder, name: str) -> list[Any]:
    return folder.table[name].to_pylist() if name in folder.table.column_names else []


def _distinct(folder: Folder, name: str) -> tuple[str, ...]:
    return tuple(sorted(str(value) for value in pc.unique(folder.table[name]).to_pylist()))
