"""Output folders, as of shards, to one: `merge`. It takes what is committed, and can be repeated.

Nothing is written into the sources. Videos are linked or copied, and their records go into parts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from svd_batch import dataset
from svd_batch.config import ModelConfig
from svd_batch.console import Console, Progress, size
from svd_batch.errors import UserError
from svd_batch.job import check_same_settings
from svd_batch.lease import look
from svd_batch.locations import is_remote, local_copy
from svd_batch.parts import PART_ROWS
from svd_batch.record_table import to_records
from svd_batch.records import VideoRecord
from svd_batch.recover import writing
from svd_batch.run import write_page
from svd_batch.store import Store, read_table


def merge(sources: Sequence[Path], target: Path, console: Console) -> int:
    """Put the videos, failures and carried columns of some output folders into one; return the exit code, 0.

    Raises: UserError when one is no output folder, or they were made with different settings.
    """
    stores = [_source(root, target) for root in sources]
    into = Store(target)
    into.check_ours()
    settings = stores[0].read_run().get("settings") or {}
    for store in [*stores[1:], *([into] if into.exists() else [])]:
        check_same_settings(store, settings)
    with writing(into, console) as lease:
        into.write_run(_run_json(into, stores))
        num_new = 0
        with Progress(sum(store.num_records() for store in stores), console, opening="merging") as progress:
            for store in stores:
                for num_placed in _videos(store, into, progress):
                    lease.check()
                    num_new += num_placed
        for store in reversed(stores):  # whose columns come last are the first in the table
            _failures(store, into)
            _tables(store, into)
        totals = dataset.compact(into)
        revision = str(settings["model.revision"])
        dataset.write_card(into, _model(stores[0], settings), revision, totals.num_videos, totals.num_images)
        write_page(into, console)
    console.say(f"videos:   {totals.num_videos} in {into.root / 'videos'} ({size(totals.num_bytes)}, {num_new} new)")
    console.say(f"table:    {into.metadata}")
    for store in stores:
        holder = look(store.lease_dir)
        if holder is not None and holder.is_alive:
            console.warn(f"{store.root} is still being written; the same command takes later what is finished then")
    return 0


def _source(root: Path, target: Path) -> Store:
    store = Store(root)
    if not store.exists():
        raise UserError(f"merge: {root} is not an output folder of svd_batch; give the output=… of a run")
    if root.resolve() == target.resolve():
        raise UserError(f"merge: {root} is the folder to merge into; give another place by -o")
    return store


def _videos(store: Store, into: Store, progress: Progress) -> Iterator[int]:
    """Make what the target lacks of a folder's videos its own; yield how many came in with each part of its records."""
    done = into.done_ids()
    records = (record for read in store.record_sources() for record in to_records(read(None)))
    while some := list(islice(records, PART_ROWS)):
        new = [record for record in some if record.video_id not in done]
        for record in some:
            if record.video_id not in done:
                _place(store, into, record)
            progress.update()
        into.commit_all(new)
        yield len(new)


def _place(store: Store, into: Store, record: VideoRecord) -> None:
    """Make a video of one folder a video of another, by a hard link where that can be.

    Raises: UserError when the file is missing.
    """
    source, temporary = store.root / record.file_name, into.temporary(record.file_name.rpartition(".")[2])
    try:
        with local_copy(source) as copy:
            linked = False
            if not is_remote(source) and not into.is_remote:
                with suppress(OSError):  # another file system, or one without links
                    os.link(copy, temporary)
                    linked = True
            if not linked:
                shutil.copyfile(copy, temporary)
            into.place(temporary, record.file_name)
    except FileNotFoundError:
        raise UserError(
            f"merge: {source} is missing; `svd-batch verify --forget {store.root}` and the run's command make it again"
        ) from None


def _failures(store: Store, into: Store) -> None:
    for failure in store.each_failure():
        if failure.video_id is None or not into.is_done(failure.video_id):
            into.record_failure(failure)


def _tables(store: Store, into: Store) -> None:
    """Take over what the tables have beside the records: carried columns, and scores of `refine`."""
    for name, save in (("images", dataset.save_images), ("scores", dataset.save_scores)):
        path = store.plan_dir / f"{name}.parquet"
        if path.is_file():
            save(into, read_table(path))
    config = store.internal / "config.yaml"
    if config.is_file():
        into.write_config(config.read_text(encoding="utf-8"))


def _model(store: Store, settings: Mapping[str, Any]) -> ModelConfig:
    """Return what the card says of the model that made a folder."""
    config = store.internal / "config.yaml"
    saved = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    shape = {name: settings[f"model.{name}"] for name in ("num_frames", "height", "width")}
    license_ = (saved.get("model") or {}).get("license", "other")
    return ModelConfig(id=str(settings["model.id"]), license=license_, **shape)


def _run_json(into: Store, stores: Sequence[Store]) -> dict[str, Any]:
    """Return run.json of the target: the sources' settings, every manifest and every run, the earliest first."""
    known = [store.read_run() for store in stores]
    own = into.read_run()
    runs = {repr(sorted(run.items())): run for one in [own, *known] for run in one.get("runs", [])}
    manifests = dict.fromkeys(name for one in [*known, own] for name in one.get("manifest", []))
    merged = sorted(runs.values(), key=lambda run: str(run.get("started_at")))
    return {**known[0], "manifest": list(manifests), "runs": merged}
