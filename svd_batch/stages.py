"""The two stages of the job, typed lists in and typed lists out. Knows no backend.

load_image: a picture to pixels, on any CPU. Generate: pixels to measured and committed videos, one engine each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import svd_batch
from svd_batch import checkpoint, ids, video
from svd_batch.access import ACCESS, Access
from svd_batch.attempts import MAX_ATTEMPTS, AttemptLog, Attempts
from svd_batch.config import Fit, MemoryConfig, ModelConfig, SpeedConfig, VideoConfig
from svd_batch.errors import ItemError, ProcessError, StoppingError, condemns
from svd_batch.images import fit_image, one_line, open_image, read_bytes
from svd_batch.locations import location
from svd_batch.metrics import METRICS, Clip, Embeddings, measure, use_one_thread
from svd_batch.place import Place
from svd_batch.quality import approximations, quality_of
from svd_batch.records import CELL_FIELDS, FailureRecord, PlannedVideo, SweepCell, VideoRecord, WorkUnit
from svd_batch.store import Store, file_sha256, flush

if TYPE_CHECKING:
    from svd_batch.engine.generated import EngineInfo, Generated
    from svd_batch.engine.pipeline import Engine

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedUnit:
    """A unit with its picture at the model's size, or with the reason why there is none."""

    unit: WorkUnit
    picture: NDArray[np.uint8] | None
    """(H, W, 3)."""
    sha256: str
    load_s: float
    error: FailureRecord | None = None


@dataclass(frozen=True)
class GenerateSettings:
    """All that a Generate stage needs; small, so that it travels to actors as it is."""

    output: str
    model: ModelConfig
    """With the hub's commit as its revision, so that a node which has the files asks the hub nothing."""
    model_revision: str
    memory: MemoryConfig
    video: VideoConfig
    fingerprint: str
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    torch_threads: int | None = None
    reproducible: bool = False
    num_videos: int | None = None
    """What each stage has to make, roughly: compiling must be won back."""
    heaviest: SweepCell | None = None
    """The cell that takes the most memory of all that are planned."""
    memory_share: float = 1.0
    """How much of the device's free memory is for this stage, where several share it."""
    place: Place | None = None
    """What the actor that holds this stage asks of its node: it settles threads and memory_share there."""
    metrics: tuple[str, ...] = ()
    """What to measure of each video before it is encoded."""
    item_timeout_s: float | None = None
    """Seconds that a video may take to generate."""


@dataclass(frozen=True)
class Encoded:
    """A video whose file is checked and not yet durable."""

    temporary: Path
    record: VideoRecord
    """Less the time of the commit."""


@dataclass(frozen=True)
class Embedded:
    """What CLIP said of a video, if it was asked, and how long it took."""

    embeddings: Embeddings | None
    seconds: float


Result = VideoRecord | FailureRecord

MAX_WRITING = 4
"""Videos that may wait to be written while others are denoised."""

MAX_COMMITTING = 8
"""Encoded videos that are flushed at the same time: a disk takes hardly longer for several than for one."""

ENCODER_PAUSE_S = 3.0
"""How long until an encoder that failed is started once more: who ends a job signals it and all else, perhaps twice."""

PATIENCE_S = 10.0
"""How long a stage that is told to stop waits for its videos in the making, and then once more for dropping them."""


def load_image(unit: WorkUnit, height: int, width: int, fit: Fit, access: Access = ACCESS) -> LoadedUnit:
    """Return the unit with its picture; any failure to load becomes a FailureRecord."""
    start = time.perf_counter()
    try:
        data = read_bytes(unit.image, access)
        sha256 = hashlib.sha256(data).hexdigest()
        if unit.image.sha256 and unit.image.sha256.lower() != sha256:
            raise ItemError(f"the picture has changed: its sha256 was {unit.image.sha256[:16]}…, is {sha256[:16]}…")
        picture = fit_image(open_image(data, access.max_pixels), height, width, fit)
    except Exception as error:  # the per-item boundary: whatever a picture does, the run goes on
        failure = _failure(unit, None, "load", error)
        return LoadedUnit(unit, None, "", time.perf_counter() - start, failure)
    return LoadedUnit(unit, picture, sha256, time.perf_counter() - start)


def _failure(unit: WorkUnit, planned: PlannedVideo | None, stage: str, error: BaseException) -> FailureRecord:
    return FailureRecord(
        image_id=unit.image.image_id,
        image_path=unit.image.image_path,
        video_id=planned.video_id if planned else None,
        stage=stage,
        error_type=type(error).__name__,
        error_message=one_line(error),
        attempts=1,
        created_at=_now(),
        host=platform.node(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Generate:
    """Holds one engine; makes the videos of a unit and commits each as soon as it is done.

    Denoising runs in one thread, measuring and encoding in another, and committing, which mostly waits for the disk, in
    a few more. So some videos are written while the next are denoised, and each record is handed on before the next
    batch is done.
    """

    def __init__(self, settings: GenerateSettings, make_engine: Callable[[], Engine] | None = None) -> None:
        self.settings = settings
        self.store = Store(location(settings.output))
        self._denoiser = ThreadPoolExecutor(1, thread_name_prefix="denoise")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._committers = ThreadPoolExecutor(MAX_COMMITTING, thread_name_prefix="commit")
        # Loaded in the thread that computes: OpenMP keeps a pool for each thread that ever did, and with more pool
        # threads than cores it stops spinning between operations, which costs small models a third of their speed.
        self.engine = self.compute(make_engine or (lambda: _make_engine(settings)))
        self.committer = Committer(settings, self.compute(self.engine.info))
        self.attempts = self.committer.attempts
        if settings.metrics:
            self._writer.submit(use_one_thread)
        self._closing = threading.Event()
        self._writing: deque[Future[None]] = deque()
        self._committing: deque[Future[None]] = deque()
        self._jobs: list[Future[None]] = []
        """Units in the making, or waiting for the one before."""
        self._end: ProcessError | None = None
        """What has condemned this process; no unit is begun after it."""

    def compute(self, work: Callable[[], T]) -> T:
        """Return work(), run in the thread that computes."""
        return self._denoiser.submit(work).result()

    def __call__(self, loaded: LoadedUnit) -> Iterator[Result]:
        """Yield exactly one result for each planned video, in plan order.

        Videos that are committed already are read back: a retried task resumes by the number of results it had
        yielded, so leaving any out would lose records. Called with the next unit, in another thread, before this one
        is over: then it is denoised while the last videos of this one are written.
        """
        futures: dict[str, Future[Result]] = {planned.video_id: Future() for planned in loaded.unit.videos}
        stop = threading.Event()
        job = self._denoiser.submit(self._denoise_unit, loaded, futures, stop)
        self._jobs = [*(other for other in self._jobs if not other.done()), job]
        try:
            for future in futures.values():
                yield future.result()
            job.result()
        finally:  # a caller that goes away (Ctrl-C) must not leave the rest of the unit running
            stop.set()

    def _denoise_unit(self, loaded: LoadedUnit, futures: Mapping[str, Future[Result]], stop: threading.Event) -> None:
        """Settle the future of each planned video; runs in the denoising thread.

        Videos are made in batches of those that can share one, so a later video may be done before an earlier one.
        Last, and alone, come those that a process has died on: whatever else was in its hands then is innocent.
        """
        try:
            if self._end is not None:
                raise self._end
            self.attempts.look()
            missing = self._to_make(loaded, futures)
            suspects = [planned for planned in missing if self.attempts.of(planned.video_id).num]
            for batch in self._batches([planned for planned in missing if planned not in suspects]):
                if stop.is_set() or self._closing.is_set():
                    return
                self._make(loaded, batch, futures)
            for planned in suspects:
                self._drain()
                if stop.is_set() or self._closing.is_set():
                    return
                self._make(loaded, [planned], futures)
        except BaseException as error:
            if isinstance(error, ProcessError):  # what has its frames can still be written
                self._drain()
            for future in futures.values():
                if not future.done():
                    future.set_exception(error)
            raise

    def _drain(self) -> None:
        """Return when every video that has its frames is settled."""
        while self._writing:
            wait([self._writing.popleft()])
        while self._committing:
            wait([self._committing.popleft()])

    def _to_make(self, loaded: LoadedUnit, futures: Mapping[str, Future[Result]]) -> list[PlannedVideo]:
        """Return the videos that are to be made, after settling those that are committed or have no picture."""
        missing = []
        load_failure: Result | None = None
        for planned in loaded.unit.videos:
            known = self._known(planned)
            if known is not None:
                futures[planned.video_id].set_result(known)
            elif loaded.picture is None:  # one failure for the image, however many videos it has
                load_failure = load_failure or self.committer.fail(loaded.error or _no_picture(loaded))
                futures[planned.video_id].set_result(load_failure)
            elif (attempts := self.attempts.of(planned.video_id)).num >= MAX_ATTEMPTS:
                futures[planned.video_id].set_result(self._set_aside(loaded, planned, attempts))
            else:
                missing.append(planned)
        return missing

    def _known(self, planned: PlannedVideo) -> VideoRecord | None:
        """Return the record of a committed video, None where its file isn't there, as in all units but retried ones."""
        path = self.store.root / ids.video_path(planned.video_id, video.suffix(self.settings.video.codec))
        return self.store.read_record(planned.video_id) if path.is_file() else None

    def _batches(self, videos: Sequence[PlannedVideo]) -> Iterator[list[PlannedVideo]]:
        """Yield the videos in batches, in plan order where they can all share one; the engine chooses the size."""
        groups: dict[Hashable, list[PlannedVideo]] = {}
        for planned in videos:
            groups.setdefault(self.engine.batch_key(planned.cell), []).append(planned)
        for group in groups.values():
            while group:
                size = self.engine.batch_size(group[0].cell, len(group))
                yield group[:size]
                del group[:size]

    def _make(self, loaded: LoadedUnit, batch: Sequence[PlannedVideo], futures: Mapping[str, Future[Result]]) -> None:
        """Make some videos at once and hand them to the writing thread."""
        assert loaded.picture is not None
        started_at = _now()
        for planned, made in zip(batch, self._generated(loaded.picture, batch), strict=True):
            error = made.exception()
            while len(self._writing) >= MAX_WRITING:
                wait([self._writing.popleft()])  # frames must not pile up when the disk is slower than the model
            if error is None:
                embedded = self._embedded(loaded.picture, planned, made.result())
                write = partial(self._write, futures[planned.video_id], loaded, planned, made.result(), embedded)
                work: Callable[[], Result | None] = partial(write, started_at)
            elif isinstance(error, StoppingError):
                futures[planned.video_id].set_exception(error)
                continue
            elif isinstance(error, Exception):  # the per-item boundary
                work = partial(self.committer.fail, _failure(loaded.unit, planned, "generate", error))
            else:
                raise error
            self._writing.append(self._writer.submit(self._settle, futures[planned.video_id], planned, work))

    def _generated(self, picture: NDArray[np.uint8], batch: Sequence[PlannedVideo]) -> list[Future[Generated]]:
        """Return a finished future for each video, after counting an attempt at it.

        Raises: ProcessError when an error condemns the process.
        """
        for planned in batch:
            self.attempts.begin(planned.video_id)
        try:
            made = self.engine.generate_batch(picture, [(planned.cell, planned.seed) for planned in batch])
        except Exception as error:
            if condemns(error):
                raise self._condemned(batch, error) from error
            raise
        for found in filter(None, (future.exception() for future in made)):
            if condemns(found):
                raise self._condemned(batch, found) from found
        return made

    def _condemned(self, batch: Sequence[PlannedVideo], error: BaseException) -> ProcessError:
        """Blame an error that condemns the process on the videos in whose making it came; return what to raise."""
        for planned in batch:
            self.attempts.blame(planned.video_id, type(error).__name__, one_line(error))
        self._end = ProcessError(
            f"generate: {type(error).__name__}: {one_line(error)}; this process can't go on after that. What is "
            "finished is kept, and the same command goes on in a new one"
        )
        return self._end

    def _set_aside(self, loaded: LoadedUnit, planned: PlannedVideo, attempts: Attempts) -> Result:
        """Return the failure of a video that has cost as many processes as it may."""
        known = self.store.failure(planned.video_id)
        if attempts.is_set_aside and known is not None:  # a retried unit comes by again
            return known
        why = f": {attempts.error_message}" if attempts.error_message else " (crash, kill or out of host memory)"
        failure = _failure(
            loaded.unit,
            planned,
            "generate",
            ItemError(f"{attempts.num} processes ended while they made it{why}; retry_failed=true tries it again"),
        )
        kind = attempts.error_type or "ProcessDied"
        result = self.committer.fail(dataclasses.replace(failure, error_type=kind, attempts=attempts.num))
        self.attempts.set_aside(planned.video_id, attempts)
        return result

    def _write(
        self,
        future: Future[Result],
        loaded: LoadedUnit,
        planned: PlannedVideo,
        generated: Generated,
        embedded: Embedded,
        started_at: str,
    ) -> Result | None:
        """Encode a video and leave its commit, which settles the future, to another thread; return its failure."""
        while len(self._committing) >= MAX_COMMITTING:
            wait([self._committing.popleft()])
        encoded = self.committer.encode(loaded, planned, generated, embedded, started_at)
        if isinstance(encoded, FailureRecord):
            return encoded
        work = partial(self.committer.commit, loaded, planned, encoded)
        self._committing.append(self._committers.submit(self._settle, future, planned, work))
        return None

    def _settle(self, future: Future[Result], planned: PlannedVideo, work: Callable[[], Result | None]) -> None:
        """Give the future work()'s result, where it has one, or error; runs in the threads that write and commit."""
        try:
            result = work()
            if result is not None:
                future.set_result(result)
        except BaseException as error:
            future.set_exception(self._condemned([planned], error) if condemns(error) else error)

    def _embedded(self, picture: NDArray[np.uint8], planned: PlannedVideo, generated: Generated) -> Embedded:
        """Return what CLIP says of a video where a metric asks for it; nothing, and a note, where that fails."""
        if not any("embeddings" in METRICS[name].needs for name in self.settings.metrics):
            return Embedded(None, 0.0)
        start = time.perf_counter()
        try:
            first, *others = self.engine.embed([picture, *generated.frames])
        except Exception as error:  # no video is lost by a metric
            if condemns(error):
                raise self._condemned([planned], error) from error
            self.engine.notes.append(f"metrics: CLIP's are left out of a video: {one_line(error)}")
            return Embedded(None, time.perf_counter() - start)
        return Embedded(Embeddings(first, np.stack(others)), time.perf_counter() - start)

    def take_notes(self) -> list[str]:
        """Return what engine and committer have to say to the person who waits, each sentence once."""
        taken = []
        for notes in (self.engine.notes, self.committer.notes):
            while notes:
                with suppress(IndexError):  # another thread has taken it
                    taken.append(notes.pop(0))
        return taken

    def close(self) -> bool:
        """Return whether nothing is denoised or written any more: what is then on disk is all there will be.

        Videos in the making get PATIENCE_S to be finished, then they are dropped. False: that has not come through.
        """
        self._closing.set()
        if wait(self._jobs, PATIENCE_S).not_done:
            self.engine.cancel()
        is_idle = not wait(self._jobs, PATIENCE_S).not_done
        is_idle = is_idle and not wait(list(self._writing), PATIENCE_S).not_done
        is_idle = is_idle and not wait(list(self._committing), PATIENCE_S).not_done
        if is_idle:
            for thread in (self._denoiser, self._writer, self._committers):
                thread.shutdown()
        return is_idle


class Committer:
    """Makes generated frames committed files, and failures rows. Calls no torch."""

    def __init__(self, settings: GenerateSettings, info: EngineInfo) -> None:
        self.settings = settings
        self.store = Store(location(settings.output))
        self.attempts = AttemptLog(self.store)
        self.info = info
        self.notes: list[str] = []
        """Sentences for the person who waits; whoever hands them on empties the list."""

    def fail(self, failure: FailureRecord) -> FailureRecord:
        """Record one failed item and return it."""
        earlier = self.store.failure(failure.item_id)
        if earlier is not None:
            failure = dataclasses.replace(failure, attempts=earlier.attempts + failure.attempts)
        self.store.record_failure(failure)
        if failure.video_id is not None:
            self.attempts.forget(failure.video_id)
        return failure

    def write(
        self,
        loaded: LoadedUnit,
        planned: PlannedVideo,
        generated: Generated,
        embedded: Embedded | None = None,
        started_at: str | None = None,
    ) -> Result:
        """Measure, encode, check and commit one video, whose making began at `started_at`."""
        encoded = self.encode(loaded, planned, generated, embedded or Embedded(None, 0.0), started_at)
        return encoded if isinstance(encoded, FailureRecord) else self.commit(loaded, planned, encoded)

    def encode(
        self,
        loaded: LoadedUnit,
        planned: PlannedVideo,
        generated: Generated,
        embedded: Embedded,
        started_at: str | None = None,
    ) -> Encoded | FailureRecord:
        """Measure, encode and check one video, whose making began at `started_at`."""
        measured = self._measured(loaded, planned, generated, embedded)
        start = time.perf_counter()
        config = self.settings.video
        temporary = self.store.temporary(video.suffix(config.codec))
        playback_fps = config.playback_fps or planned.cell.fps
        with self._at_the_item(loaded, planned, temporary) as failed:
            parameters = self._parameters(loaded, planned)
            try:
                encoded_at = self._encode(temporary, generated.frames, playback_fps, parameters)
            except OSError as error:
                if error.errno is not None:  # the disk's
                    raise
                temporary.unlink(missing_ok=True)
                time.sleep(ENCODER_PAUSE_S)
                encoded_at = self._encode(temporary, generated.frames, playback_fps, parameters)
            written: dict[str, Any] = {
                "file_name": ids.video_path(planned.video_id, video.suffix(config.codec)),
                "playback_fps": playback_fps,
                "num_bytes": temporary.stat().st_size,
                "video_sha256": file_sha256(temporary),
                "started_at": started_at,
                **measured,
            }
            checked = time.perf_counter() - encoded_at
            seconds = {"encode_s": encoded_at - start, "commit_s": checked, "write_s": 0.0}
            return Encoded(temporary, self._record(loaded, planned, generated, written, seconds))
        return failed[0]

    def commit(self, loaded: LoadedUnit, planned: PlannedVideo, encoded: Encoded) -> Result:
        """Make an encoded video durable, and then its record."""
        record = encoded.record
        with self._at_the_item(loaded, planned, encoded.temporary) as failed:
            start = time.perf_counter()
            flush(encoded.temporary)  # two renames follow, which the record can't time: it is written before
            commit_s = round(record.commit_s + time.perf_counter() - start, 6)
            write_s = round(record.encode_s + commit_s, 6)
            record = dataclasses.replace(record, commit_s=commit_s, write_s=write_s)
            self.attempts.forget(planned.video_id)  # a process that dies from here on dies of something else
            self.store.commit_video(encoded.temporary, record)
            self.store.clear_failure(loaded.unit.image.image_id)
            return record
        return failed[0]

    @contextmanager
    def _at_the_item(self, loaded: LoadedUnit, planned: PlannedVideo, temporary: Path) -> Iterator[list[FailureRecord]]:
        """Put the failure of what is done inside on record, and into the list that is yielded.

        Raises: what is the disk's fault, or condemns the process.
        """
        failed: list[FailureRecord] = []
        try:
            yield failed
        except Exception as error:  # the per-item boundary
            refusal = self.store.refusal(error)
            temporary.unlink(missing_ok=True)
            if refusal is error:
                raise
            if refusal is not None:
                raise refusal from error
            if condemns(error):
                raise
            failed.append(self.fail(_failure(loaded.unit, planned, "write", error)))

    def _encode(self, path: Path, frames: NDArray[np.uint8], fps: int, parameters: dict[str, object]) -> float:
        """Write a file, return when that was done, and check it. Raises: OSError when frames are lacking."""
        video.write_video(path, frames, fps, self.settings.video, parameters)
        encoded = time.perf_counter()
        if video.probe(path).num_frames != len(frames):
            raise OSError("the encoded file does not hold every frame")
        return encoded

    def _measured(
        self, loaded: LoadedUnit, planned: PlannedVideo, generated: Generated, embedded: Embedded
    ) -> dict[str, Any]:
        """Return a video's metrics as fields of its record; what fails is left out and noted."""
        start = time.perf_counter()
        names = self.settings.metrics
        fps = self.settings.video.playback_fps or planned.cell.fps
        parts = (loaded.picture, embedded.embeddings, generated.num_nan_frames)
        found = measure(Clip(generated.frames, fps, *parts), names)
        values = dict(found.values)
        if generated.num_nan_frames:  # known without measuring, and nobody could find out later
            values["is_broken"] = True
        self.notes += [f"metrics: {', '.join(left_out)} can't be measured: {e}" for e, left_out in found.errors.items()]
        seconds = round(embedded.seconds + time.perf_counter() - start, 6)
        embed_s = round(embedded.seconds, 6) if embedded.seconds else None
        fields = {"metrics": values, "metrics_s": seconds, "metrics_source": "frames"} if values else {}
        return {"embed_s": embed_s, **fields}

    def _parameters(self, loaded: LoadedUnit, planned: PlannedVideo) -> dict[str, object]:
        """Return what goes into the file's own metadata: no paths, so that a file can be passed on."""
        cell = {name: getattr(planned.cell, name) for name in CELL_FIELDS}
        return {
            **cell,
            "video_id": planned.video_id,
            "image_sha256": loaded.sha256,
            "seed": planned.seed,
            "model": self.settings.model.name,
            "svd_batch_version": svd_batch.__version__,
        }

    def _record(
        self,
        loaded: LoadedUnit,
        planned: PlannedVideo,
        generated: Generated,
        written: dict[str, Any],
        seconds: dict[str, float],
    ) -> VideoRecord:
        """Return a video's row; `written` and `seconds` are what only the writing of its file could tell."""
        model = self.settings.model
        phases = {name: getattr(generated, name) for name in ("generate_s", "condition_s", "denoise_s", "decode_s")}
        return VideoRecord(
            video_id=planned.video_id,
            image_id=loaded.unit.image.image_id,
            image_path=loaded.unit.image.image_path,
            image_sha256=loaded.sha256,
            **vars(planned.cell),
            **written,
            approximations=approximations(planned.cell),
            quality=quality_of(planned.cell),
            num_frames=generated.frames.shape[0],
            height=generated.frames.shape[1],
            width=generated.frames.shape[2],
            seed=planned.seed,
            replicate=planned.replicate,
            model_id=model.id,
            model_revision=self.settings.model_revision,
            dtype=model.dtype.value,
            fingerprint=self.settings.fingerprint,
            **{name: round(value, 6) for name, value in {"load_s": loaded.load_s, **phases, **seconds}.items()},
            peak_memory_bytes=generated.peak_memory_bytes,
            **vars(self.info),
            torch_threads=generated.torch_threads,
            batch_size=generated.batch_size,
            memory_profile=generated.memory_profile,
            svd_batch_version=svd_batch.__version__,
            created_at=_now(),
            host=platform.node(),
        )


def _no_picture(loaded: LoadedUnit) -> FailureRecord:
    return _failure(loaded.unit, None, "load", ItemError("the picture did not load"))


def _make_engine(settings: GenerateSettings) -> Engine:
    if settings.reproducible:
        from svd_batch.engine.machine import make_deterministic

        make_deterministic()
    from svd_batch.engine.pipeline import Engine

    return Engine(
        checkpoint.fetch(settings.model),
        settings.model,
        settings.memory,
        settings.speed,
        settings.torch_threads,
        settings.num_videos,
        heaviest=settings.heaviest,
        memory_share=settings.memory_share,
        steps_down=not settings.reproducible,
        item_timeout_s=settings.item_timeout_s,
    )
