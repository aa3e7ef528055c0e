"""The verb `score`: metrics of videos that are there already, measured on their files and written into their records.

A file has lost what its codec loses, so `metrics_source` says which metrics come from one. Each video is committed by
itself, as it was when it was made: an interrupted run goes on with the same command.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svd_batch import checkpoint, dataset
from svd_batch.access import ACCESS, Access
from svd_batch.config import Dtype, Fit, ModelConfig
from svd_batch.console import Console, Progress
from svd_batch.errors import UserError
from svd_batch.images import fit_image, one_line, open_image, read_bytes
from svd_batch.lease import Lease
from svd_batch.manifest import read_manifest
from svd_batch.metrics import METRICS, Clip, Embeddings, check_names, measure, use_one_thread
from svd_batch.records import ImageRecord, VideoRecord
from svd_batch.recover import writing
from svd_batch.run import lines_only
from svd_batch.store import Store, file_sha256
from svd_batch.video import read_frames

FINISHED, PROBLEMS_FOUND, INTERRUPTED = 0, 1, 130
CLIP_METRICS = tuple(metric.name for metric in METRICS.values() if "embeddings" in metric.needs)


class Encoder(Protocol):
    """What gives CLIP's embeddings."""

    def embed(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of pictures (H, W, 3)."""


@dataclass
class Scorer:
    """Measures videos on their files. Its parts may be asked by several threads at once."""

    store: Store
    images: Mapping[str, ImageRecord]
    """Where the pictures are, by image_id."""
    fit: Fit
    access: Access = ACCESS
    """What of the pictures may be read: local files alone, unless a job allows more."""
    make_encoder: Callable[[], Encoder] | None = None
    """Loads the image encoder when a metric first asks for it; None where there is none."""
    notes: list[str] = field(default_factory=list)
    """What kept a metric from being measured."""
    _encoder: Encoder | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def score(self, record: VideoRecord, names: Sequence[str]) -> VideoRecord:
        """Return a video's record with the named metrics, committed.

        Raises: OSError when its file is missing, damaged or another one; UserError when the encoder does not load.
        """
        start = time.perf_counter()
        path = self.store.root / record.file_name
        if not path.is_file():
            raise OSError(f"{record.file_name} is missing")
        if file_sha256(path) != record.video_sha256:
            raise OSError(f"{record.file_name} has another sha256 than its record says")
        frames, _ = read_frames(path)
        needs = {part for name in names for part in METRICS[name].needs}
        picture = self.picture(record) if needs or "is_broken" in names else None
        embeddings = self._embeddings(picture, frames) if "embeddings" in needs and picture is not None else None
        found = measure(Clip(frames, record.playback_fps, picture, embeddings), names)
        self.notes += [f"{', '.join(left_out)} can't be measured: {error}" for error, left_out in found.errors.items()]
        scored = _with_metrics(record, found.values, time.perf_counter() - start)
        self.store.commit(scored)
        return scored

    def picture(self, record: VideoRecord) -> NDArray[np.uint8] | None:
        """Return the picture as the model got it, None and a note where it isn't there any more."""
        image = self.images.get(record.image_id)
        try:
            if image is None:
                raise UserError("it is in none of the manifests of the folder's runs")
            data = read_bytes(image, self.access)
            if hashlib.sha256(data).hexdigest() != record.image_sha256:
                raise UserError("its bytes have changed since the video was made")
            return fit_image(open_image(data, self.access.max_pixels), record.height, record.width, self.fit)
        except Exception as error:  # the per-item boundary: fsspec alone raises half a dozen kinds
            name = record.image_path or record.image_id
            self.notes.append(f"what is compared with the picture {name} is left out: {one_line(error)}")
            return None

    def _embeddings(self, picture: NDArray[np.uint8], frames: NDArray[np.uint8]) -> Embeddings | None:
        if self.make_encoder is None:
            return None
        with self._lock:
            self._encoder = self._encoder or self.make_encoder()
            first, *others = self._encoder.embed([picture, *frames])
        return Embeddings(first, np.stack(others))


def _with_metrics(record: VideoRecord, values: Mapping[str, float | bool], seconds: float) -> VideoRecord:
    """Return the record with metrics of its file in place of earlier ones of the same names."""
    if not values:
        return record
    merged = {**record.metrics, **values}
    if record.metrics.get("is_broken") and "is_broken" in values:
        merged["is_broken"] = True  # NaN was seen in the frames, and can't be in the file
    only = not set(record.metrics) - set(values) or record.metrics_source == "file"
    source = "file" if only else "mixed"
    return replace(record, metrics=merged, metrics_source=source, metrics_s=round(seconds, 6))


def missing(record: VideoRecord, names: Sequence[str], *, force: bool = False) -> tuple[str, ...]:
    """Return which of the named metrics a video lacks, those left out that a clip so short has none of."""
    lacking = [METRICS[name] for name in names if force or name not in record.metrics]
    return tuple(metric.name for metric in lacking if record.num_frames >= metric.least_frames)


def score(root: Path, console: Console, *, names: Sequence[str] | None = None, force: bool = False) -> int:
    """Measure what the videos of an output folder lack of the named metrics, of all without names.

    Returns: 0 finished, 1 some videos could not be measured, 130 interrupted.

    Raises: UserError when `root` is no output folder, or a metric is unknown or asks for what isn't there.
    """
    store = Store(root)
    if not store.exists():
        raise UserError(f"score: {root} is not an output folder of svd_batch; give the output=… of a run")
    wanted = tuple(METRICS) if names is None else check_names("--metrics", names)
    records = list(store.records())
    if not records:
        raise UserError(f"score: {root} has no finished videos; the same run command makes them")
    settings, scorer = _scorer(store, console)
    lacking = {name for record in records for name in missing(record, wanted, force=force)}
    if lacking & set(CLIP_METRICS):
        scorer.make_encoder, reason = _encoder_of(settings)
        if reason and names is not None:
            raise UserError(f"--metrics: {reason}")
        if reason:
            console.warn(f"left out: {reason}")
            wanted = tuple(name for name in wanted if name not in CLIP_METRICS)
    if not any(missing(record, wanted, force=force) for record in records):
        console.say(f"score: nothing to do, {_plural(len(records))} have been measured")
        return FINISHED
    with writing(store, console) as lease:
        records = list(store.records())  # nobody else adds to them any more
        todo = [(record, names) for record in records if (names := missing(record, wanted, force=force))]
        console.say(f"score: {len(todo)} of {_plural(len(records))} to measure")
        return _score_all(scorer, todo, console, lease)


def _score_all(
    scorer: Scorer, todo: Sequence[tuple[VideoRecord, tuple[str, ...]]], console: Console, lease: Lease
) -> int:
    """Measure each video on one of the cores; write the table; return the exit code."""
    from svd_batch.backends import num_cores

    use_one_thread()
    problems, interrupted = 0, False
    log = scorer.store.logs_dir / f"score-{datetime.now(UTC):%Y%m%dT%H%M%S}.log"
    with lines_only(console, log, verbose=False) as ours, ThreadPoolExecutor(num_cores()) as pool:
        try:
            with Progress(len(todo), ours, opening="measuring") as progress:
                futures = {pool.submit(scorer.score, *one): one[0] for one in todo}
                for future in as_completed(futures):
                    error = future.exception()
                    if isinstance(error, OSError):
                        problems += 1
                        progress.say_once(f"{futures[future].video_id}: {one_line(error)}")
                    elif error is not None:
                        raise error
                    while scorer.notes:
                        progress.say_once(f"note: {scorer.notes.pop()}")
                    progress.update(failed=error is not None)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            lease.check()
            dataset.compact(scorer.store)
    if interrupted:
        console.say("interrupted: what was measured is kept; the same command goes on from here")
        return INTERRUPTED
    console.say(f"table: {scorer.store.metadata}; {len(todo) - problems} measured, {problems} could not be")
    return PROBLEMS_FOUND if problems else FINISHED


def _plural(count: int) -> str:
    return "1 video" if count == 1 else f"{count} videos"


def _scorer(store: Store, console: Console) -> tuple[Mapping[str, Any], Scorer]:
    """Return the settings that the folder was made with, and what measures its videos.

    Raises: UserError when run.json lacks them.
    """
    run = store.read_run()
    settings = run.get("settings") or {}
    if "fit" not in settings:
        raise UserError(
            f"score: {store.run_json} doesn't say how the folder was made; the same run command writes it anew"
        )
    images: dict[str, ImageRecord] = {}
    for manifest in run.get("manifest") or []:  # the last run's first; one by one, since they may share pictures
        try:
            found = read_manifest([manifest], None).images
        except UserError as error:
            console.warn(f"no pictures of {manifest}: {error}")
            continue
        images = {**{image.image_id: image for image in found}, **images}
    return settings, Scorer(store, images, Fit(settings["fit"]))


def _encoder_of(settings: Mapping[str, Any]) -> tuple[Callable[[], Encoder] | None, str]:
    """Return what loads the image encoder that made the videos, or None and the reason why it isn't here."""
    names = " and ".join(CLIP_METRICS)
    sizes = {key: settings[f"model.{key}"] for key in ("num_frames", "height", "width", "variant")}
    try:
        dtype, revision = Dtype(settings["model.dtype"]), str(settings["model.revision"])
        model = ModelConfig(id=str(settings["model.id"]), name="scored", dtype=dtype, revision=revision, **sizes)
        folder = checkpoint.on_this_machine(model)
        if folder is None:
            return None, f"{names} need {model.id}, revision {revision[:12]}, which is not on this machine"
        if checkpoint.local_folder(model) is not None and checkpoint.resolve_revision(model) != revision:
            return None, f"{names} need the checkpoint that made the videos, and {folder} has changed since"
    except UserError as error:
        return None, f"{names} need the checkpoint that made the videos: {error}"
    return functools.partial(load_encoder, folder, model), ""


def load_encoder(folder: Path, model: ModelConfig) -> Encoder:
    """Return the image encoder of a checkpoint."""
    from svd_batch.engine.embedding import ImageEncoder

    return ImageEncoder(folder, model)
