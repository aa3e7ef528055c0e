"""A finished or interrupted output folder to what other tools open. Needs neither torch nor ray.

One module a target; each is imported when it is asked for, and so are the packages behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from svd_batch.errors import UserError
from svd_batch.export.settings import FILES, TARGETS, ExportSettings
from svd_batch.extras import require

if TYPE_CHECKING:
    from svd_batch.export.folder import Folder

__all__ = ["FILES", "TARGETS", "ExportSettings", "export"]

EXTRAS = ("wandb", "tensorboard")
"""Targets that need a package of the same name."""


def export(root: Path, settings: ExportSettings, place: Path | None = None) -> Iterator[str]:
    """Export an output folder and yield what a person should know of it, line by line.

    `place` is a file for csv, json and jsonl, else a folder; none is below OUTPUT/exports.

    Raises: UserError before anything is written: a missing package, a folder that is no output, an unfit place.
    """
    target = settings.target
    if target in EXTRAS:
        require(target, f"export --to {target}")
    from svd_batch.export.folder import read_folder

    folder = read_folder(root)
    if place is None and folder.store.is_remote:
        raise UserError(f"-o: {root} is in a store; give a file or folder of this machine to write to")
    place = place or root / "exports" / (f"{settings.table}.{target}" if target in FILES else _FOLDERS[target])
    if folder.is_inside(place):
        raise UserError(f"-o: {place} is where svd_batch keeps its own; give another place")
    folder.store.check_place(place.parent if target in FILES else place / "wandb" if target == "wandb" else place)
    yield from _module(target)(folder, settings, place)


_FOLDERS = {"wandb": "", "tensorboard": "tensorboard", "vbench": "vbench"}  # wandb makes a folder wandb by itself


def _module(target: str) -> Callable[[Folder, ExportSettings, Path], Iterator[str]]:
    if target in FILES:
        from svd_batch.export.files import write_file

        return write_file
    if target == "vbench":
        from svd_batch.export.vbench import write_vbench

        return write_vbench
    if target == "tensorboard":
        from svd_batch.export.tensorboard_runs import write_tensorboard

        return write_tensorboard
    from svd_batch.export.wandb_run import write_wandb

    return write_wandb
