"""Weights & Biases: one run for each output folder, whoever writes to it; and the table of videos of the export."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from svd_batch.errors import UserError
from svd_batch.export.clips import as_mp4
from svd_batch.export.folder import Folder
from svd_batch.export.settings import ExportSettings
from svd_batch.locations import is_remote, local_copy

PROJECT = "svd_batch"
PLAYABLE = (".mp4", ".gif")
"""What W&B plays of our files; the others are written again."""


def is_offline(asked: bool) -> bool:
    """Return whether nothing is sent: asked for here, or by WANDB_MODE."""
    return asked or os.environ.get("WANDB_MODE", "online") in ("offline", "dryrun", "disabled")


def check_account(what: str, offline: str) -> None:
    """Check that there is an API key, without a network.

    Raises: UserError with what to do.
    """
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise UserError(
            f"{what}: no API key of W&B on this machine; run `wandb login`, or write to disk alone with {offline}"
        )


def start(
    place: Path, run_id: str, name: str, config: Mapping[str, Any], settings: ExportSettings, **options: Any
) -> Any:
    """Return W&B's run of that id, new or gone on with; its files go into PLACE/wandb.

    Nothing of the machine's code, git or terminal is read.
    """
    place.mkdir(parents=True, exist_ok=True)
    import wandb

    run = wandb.init(
        project=settings.project or PROJECT,
        entity=settings.entity,
        name=settings.name or name,
        id=run_id,
        resume="allow",
        dir=str(place.resolve()),  # W&B's own process keeps the folder in which it was started
        mode="offline" if is_offline(settings.offline) else "online",
        settings=wandb.Settings(
            console="off", silent=True, save_code=False, disable_git=True, disable_code=True, **options
        ),
    )
    run.config.update(dict(config), allow_val_change=True)
    return run


def sync_hint(run: Any) -> str:
    """Return where to see the run, or how to send it."""
    return f"wandb sync {Path(run.dir).parent}" if run.offline else str(run.url)


def write_wandb(folder: Folder, settings: ExportSettings, place: Path) -> Iterator[str]:
    """Log the table `videos`, with clips, and the summary's counts and means.

    Raises: UserError without an account, for a missing video, or when W&B refuses.
    """
    if not is_offline(settings.offline):
        check_account("export --to wandb", "--offline")
    import wandb

    try:
        with _copies_below(place):
            run = start(place, folder.run_id, folder.name, folder.config, settings, x_disable_stats=True)
            try:
                with _clips(folder, with_videos=not settings.no_videos) as rows:
                    columns = _columns(folder, with_videos=not settings.no_videos)
                    table = wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in rows])
                    # behind what the logger wrote, since W&B drops a step that is below the last
                    run.log({"videos": table}, step=max(run.step, folder.table.num_rows + folder.failures.num_rows + 1))
                    run.summary.update(_summary(folder))
                    hint = sync_hint(run)
            finally:
                run.finish()
    except wandb.Error as error:
        raise UserError(f"export --to wandb: {' '.join(str(error).split())}") from None
    yield f"{folder.table.num_rows} videos in W&B's run {folder.run_id}: {hint}"


@contextmanager
def _copies_below(place: Path) -> Iterator[None]:
    """Let W&B keep its copies of videos in PLACE/wandb for as long as this is open, not in the home folder."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(place.resolve() / "wandb" / "data")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _columns(folder: Folder, *, with_videos: bool) -> list[str]:
    """Return the columns in the order of interest: picture, clip, parameters, metrics, all else."""
    video = ["video"] if with_videos else []
    first = ["image_id", *video, *folder.parameters, *folder.metrics]
    return [*first, *(name for name in folder.table.column_names if name not in first)]


@contextmanager
def _clips(folder: Folder, *, with_videos: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows, each with its clip in `video`; clips that were written again live as long as this is open."""
    import wandb

    rows = list(folder.rows())
    with tempfile.TemporaryDirectory(prefix="svdb-wandb-") as temporary, ExitStack() as clips:
        for row in rows if with_videos else []:
            path = folder.root / row["file_name"]
            if not path.is_file():
                raise UserError(f"OUTPUT: {row['file_name']} is missing; see svd-batch verify, or give --no-videos")
            if is_remote(path):
                path = clips.enter_context(local_copy(path))
            if path.suffix not in PLAYABLE:
                again = Path(temporary) / f"{row['video_id']}.mp4"
                as_mp4(path, again)
                path = again
            row["video"] = wandb.Video(str(path), format=path.suffix[1:])
        yield rows


def _summary(folder: Folder) -> dict[str, float]:
    """Return counts, and the mean of each metric over the videos that have it."""
    means: dict[str, float] = {}
    rows = list(folder.rows())
    for name in folder.metrics:
        values = [float(row[name]) for row in rows if row[name] is not None]
        if values:
            means[f"mean/{name}"] = sum(values) / len(values)
    return {"videos_made": len(rows), "videos_failed": folder.failures.num_rows, **means}
