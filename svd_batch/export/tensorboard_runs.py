"""Videos to TensorBoard: a run each, with its parameters (HParams), metrics and seconds (Scalars) and clip (Images)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from svd_batch.errors import UserError
from svd_batch.export.clips import as_gif
from svd_batch.export.events import EventFile
from svd_batch.export.folder import Folder
from svd_batch.export.settings import ExportSettings

LONGEST_PX = 512
"""A clip's longer side at most: a GIF of SVD-XT's 1024 px takes 8 MB."""
MANY_RUNS = 1000
MARK = ".svd_batch-export"
"""File in the folder that says that the export may replace it."""


def write_tensorboard(folder: Folder, settings: ExportSettings, place: Path) -> Iterator[str]:
    """Write PLACE/<picture>/<video_id>/events…; an earlier export there is replaced.

    Raises: UserError for a place with other things or a missing video.
    """
    _clear(place)
    varying = _varying(folder)
    num_runs = 0
    for row in folder.rows():
        run = EventFile(place / _safe(str(row["image_path"] or row["image_id"])) / row["video_id"])
        try:
            parameters = {name: row[name] for name in folder.parameters}
            run.hyperparameters({"image_id": row["image_id"], **parameters}, row["video_id"])
            run.scalars(_numbers(row, folder.metrics, "metrics"), 0)
            run.scalars(_numbers(row, [name for name in row if name.endswith("_s")], "seconds"), 0)
            run.text("parameters", _table(parameters))
            if not settings.no_videos:
                tag = "clip/" + (", ".join(f"{name}={row[name]}" for name in varying) or "all")
                run.clip(tag, *as_gif(folder.root / row["file_name"], LONGEST_PX))
        finally:
            run.close()
        num_runs += 1
    yield f"{place}: {num_runs} runs, one a video; tensorboard --logdir {place}"
    if num_runs > MANY_RUNS:
        yield f"TensorBoard takes long over more than {MANY_RUNS} runs; csv and wandb stay quick"


def _clear(place: Path) -> None:
    """Make the folder, empty.

    Raises: UserError where there are other things.
    """
    if place.exists() and not place.is_dir():
        raise UserError(f"-o: {place} is a file; give a folder")
    if place.is_dir() and any(place.iterdir()):
        if not (place / MARK).is_file():
            raise UserError(f"-o: {place} is not empty and was not made by export --to tensorboard; give a new folder")
        shutil.rmtree(place)
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / MARK).touch()
    except OSError as error:
        raise UserError(f"-o: {place} can't be made: {error.strerror or error}") from None


def _varying(folder: Folder) -> tuple[str, ...]:
    """Return the parameters that have more than one value, the seed aside."""
    names = (name for name in folder.parameters if name != "seed")
    return tuple(name for name in names if len(folder.table[name].unique()) > 1)


def _numbers(row: Mapping[str, Any], names: Any, prefix: str) -> dict[str, float]:
    return {f"{prefix}/{name}": float(row[name]) for name in names if isinstance(row[name], (bool, int, float))}


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| parameter | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in values.items())])


def _safe(path: str) -> str:
    """Return a picture's name as a folder's."""
    return re.sub(r"[^\w.]+", "_", path.rpartition("/")[2]).strip("._")[:80] or "picture"
