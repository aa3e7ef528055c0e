"""The second stage: a picture to measured and committed videos, with an engine of its own. Knows no backend."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from svd_batch import checkpoint, ids, video
from svd_batch.attempts import MAX_ATTEMPTS, Attempts
from svd_batch.committer import Committer, Embedded
from svd_batch.errors import ItemError, ProcessError, StoppingError, condemns
from svd_batch.images import one_line
from svd_batch.load import LoadedUnit, failure_of, now
from svd_batch.locations import is_file
from svd_batch.metrics import METRICS, Embeddings, use_one_thread
from svd_batch.records import FailureRecord, PlannedVideo, Result, VideoRecord
from svd_batch.settings import GenerateSettings

if TYPE_CHECKING:
    from svd_batch.engine.generated import Generated
    from svd_batch.engine.pipeline import Engine

T = TypeVar("T")


MAX_WRITING = 4
"""Videos that may wait to be encoded, or be it, while others are denoised."""

MAX_COMMITTING = 4
"""Videos that are checked and flushed at the same time, beside those that are encoded. A disk takes hardly longer for
several flushes than for one, but more threads wait longer for Python's lock than for a disk."""

MOST_TOGETHER = 32
"""Results that are handed on at once: some 20 kB when packed. Below 100 kB Ray sends them to the driver; more would
stay in the memory of a node, and if that dies be made anew in other groups than those that the driver counts by."""

PATIENCE_S = 10.0
"""How long a stage that is told to stop waits for its videos in the making, and then once more for dropping them."""


@dataclass
class _Making:
    """A unit in the making."""

    futures: dict[str, Future[Result]]
    """What comes of each planned video, in plan order."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set: nothing more of it is begun."""
    is_known: bool = False
    """Whether anything of it was on record before; settled before any future is."""


class Generate:
    """Holds one engine; makes the videos of a unit and commits each as soon as it is done.

    One thread goes through the units and says what is made next, another denoises it, with the engine's own beside it
    where a CPU makes several videos at once. Others write, each a video from its frames to its commit, which mostly
    waits for the disk; one of them at a time measures and encodes, or a few beside a GPU. So some videos are written
    while the next are denoised, and each record is handed on before the next batch is done.
    """

    def __init__(self, settings: GenerateSettings, make_engine: Callable[[], Engine] | None = None) -> None:
        self.settings = settings
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="plan")
        self._denoiser = ThreadPoolExecutor(1, thread_name_prefix="denoise")
        # Loaded in the thread that computes: OpenMP keeps a pool for each thread that ever did, and with more pool
        # threads than cores it stops spinning between operations, which costs small models a third of their speed.
        self.engine = self.compute(make_engine or (lambda: _make_engine(settings)))
        num_encoders = self.engine.num_writers
        self._writers = ThreadPoolExecutor(num_encoders + MAX_COMMITTING, thread_name_prefix="write")
        self._encoders = threading.Semaphore(num_encoders)
        self.committer = Committer(settings, self.compute(self.engine.info))
        self.store, self.attempts = self.committer.store, self.committer.attempts
        if settings.metrics:
            self._writers.submit(use_one_thread)
        self._closing = threading.Event()
        self._lanes: dict[int, Future[None]] = {}
        """What was begun last in each of the engine's lanes."""
        self._num_begun = 0
        """Videos that were begun in lanes since these were last all without work."""
        self._room = threading.Semaphore(MAX_WRITING)
        """For frames that wait: they must not pile up when the encoder or the disk is slower than the model."""
        self._writing: set[Future[None]] = set()
        """Videos and failures that are written, or wait for it."""
        self._jobs: list[Future[None]] = []
        """Units in the making, or waiting for the one before."""
        self._handed_on = -math.inf
        """When results were last handed on, by `time.monotonic`."""
        self._end: ProcessError | None = None
        """What has condemned this process; no unit is begun after it."""

    def compute(self, work: Callable[[], T]) -> T:
        """Return work(), run in the thread that computes."""
        return self._denoiser.submit(work).result()

    def __call__(self, loaded: LoadedUnit) -> Iterator[Result]:
        """Begin with a unit; yield exactly one result for each planned video, in plan order.

        Videos that are committed already are read back: a retried task resumes by the number of results it had
        yielded, so leaving any out would lose records. Called with the next unit before this one is over: then it is
        denoised while the last videos of this one are written.
        """
        return (result for results in self.begin(loaded) for result in results)

    def begin(self, loaded: LoadedUnit, hold_s: float = 0.0) -> Iterator[list[Result]]:
        """Do the same, but yield together what came within `hold_s` of the last time, at most MOST_TOGETHER.

        A unit of which anything was on record before is yielded one by one, so that a retried one, too, has yielded
        after N times no more than its first try after N times.
        """
        making = _Making({planned.video_id: Future() for planned in loaded.unit.videos})
        job = self._planner.submit(self._denoise_unit, loaded, making)
        self._jobs = [*(other for other in self._jobs if not other.done()), job]
        return self._results(making, job, hold_s)

    def _results(self, making: _Making, job: Future[None], hold_s: float) -> Iterator[list[Result]]:
        futures = deque(making.futures.values())
        try:
            while futures:
                wait([futures[0]])
                most = list(islice(futures, 1 if making.is_known else MOST_TOGETHER))
                wait(most, max(0.0, self._handed_on + hold_s - time.monotonic()), FIRST_EXCEPTION)
                held = [futures.popleft().result()]
                for future in most[1:]:
                    if not future.done() or future.exception() is not None:
                        break
                    held.append(futures.popleft().result())
                yield held
                self._handed_on = time.monotonic()
            job.result()
        finally:  # a caller that goes away (Ctrl-C) must not leave the rest of the unit running
            making.stop.set()

    def _denoise_unit(self, loaded: LoadedUnit, making: _Making) -> None:
        """Let the future of each planned video be settled; runs in the planning thread.

        Videos are made in batches of those that can share one, so a later video may be done before an earlier one.
        Last, and alone, come those that a process has died on: whatever else was in its hands then is innocent.
        """
        futures = making.futures
        try:
            if self._end is not None:
                raise self._end
            self.attempts.look()
            self.store.look_for_failures()
            missing = self._to_make(loaded, making)
            suspects = [planned for planned in missing if self.attempts.of(planned.video_id).num]
            self._make_groups(loaded, self._groups([planned for planned in missing if planned not in suspects]), making)
            for planned in suspects:
                self._drain()
                if self._goes_on(making):
                    self.compute(partial(self._make, loaded, [planned], futures))
            if suspects:  # nor may the next unit be in hand as long as one is
                self._drain()
        except BaseException as error:
            if isinstance(error, ProcessError):  # what has its frames can still be written
                self._drain()
            for future in futures.values():
                if not future.done():
                    future.set_exception(error)
            raise

    def _goes_on(self, making: _Making) -> bool:
        """Return whether more of a unit may be begun.

        Raises: ProcessError where the process is condemned.
        """
        if self._end is not None:
            raise self._end
        return not (making.stop.is_set() or self._closing.is_set())

    def _make_groups(self, loaded: LoadedUnit, groups: deque[deque[PlannedVideo]], making: _Making) -> None:
        """Begin with videos, those of a group can share a batch, as soon as there is a lane or a GPU for them.

        Where the engine has lanes each gets its next video as soon as it is done with one, also the next unit's. The
        last few of all, too few for every lane, are made as a batch: that shares all cores among them.
        """
        while groups:
            num_lanes = self.engine.num_lanes(groups[0][0].cell)
            lane = self._next_lane(num_lanes)
            if not self._goes_on(making):
                return
            is_few = sum(map(len, groups)) < num_lanes
            if num_lanes == 1 or (is_few and self._num_begun % num_lanes == 0 and not self._is_next_waiting()):
                wait(list(self._lanes.values()))
                self._num_begun = 0
                self.compute(partial(self._make_batches, loaded, groups, making))
            else:
                self._num_begun += 1
                (planned,) = _taken(groups, 1)
                work = partial(self._make_in_lane, lane, loaded, planned, making.futures)
                self._lanes[lane] = self._denoiser.submit(work) if lane == 0 else self.engine.submit(lane, work)

    def _make_batches(self, loaded: LoadedUnit, groups: deque[deque[PlannedVideo]], making: _Making) -> None:
        """Make one batch after the other as long as the engine has one lane; at least one."""
        while True:
            batch = _taken(groups, self.engine.batch_size(groups[0][0].cell, len(groups[0])))
            self._make(loaded, batch, making.futures)
            if not groups or self.engine.num_lanes(groups[0][0].cell) > 1 or not self._goes_on(making):
                return

    def _is_next_waiting(self) -> bool:
        """Return whether another unit was begun behind the one that is planned now."""
        return sum(not job.done() for job in self._jobs) > 1

    def _next_lane(self, num_lanes: int) -> int:
        """Return the number of a lane with nothing to do, waiting for one."""
        for lane in range(num_lanes):
            if lane not in self._lanes:
                return lane
        done, _ = wait([self._lanes[lane] for lane in range(num_lanes)], return_when=FIRST_COMPLETED)
        return next(lane for lane, work in self._lanes.items() if work in done)

    def _make_in_lane(
        self, lane: int, loaded: LoadedUnit, planned: PlannedVideo, futures: Mapping[str, Future[Result]]
    ) -> None:
        """Make one video beside others; an error that isn't its own ends the unit as if it were."""
        try:
            self._make(loaded, [planned], futures, lane)
        except BaseException as error:
            futures[planned.video_id].set_exception(error)

    def _drain(self) -> None:
        """Return when every video that was begun is settled."""
        wait(list(self._lanes.values()))
        wait(self._writing.copy())

    def _to_make(self, loaded: LoadedUnit, making: _Making) -> list[PlannedVideo]:
        """Return the videos that are to be made, after settling those that are committed or have no picture."""
        missing = []
        load_failure: Result | None = None
        futures, videos = making.futures, loaded.unit.videos
        records = {planned.video_id: self._known(planned) for planned in videos}
        making.is_known = any(records.values()) or any(
            map(self.store.is_failed, (loaded.unit.image.image_id, *records))
        )
        for planned in videos:
            known = records[planned.video_id]
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
        return self.store.read_record(planned.video_id) if is_file(path) else None

    def _groups(self, videos: Sequence[PlannedVideo]) -> deque[deque[PlannedVideo]]:
        """Return those together that can share a batch, in plan order."""
        groups: dict[Hashable, deque[PlannedVideo]] = {}
        for planned in videos:
            groups.setdefault(self.engine.batch_key(planned.cell), deque()).append(planned)
        return deque(groups.values())

    def _make(
        self,
        loaded: LoadedUnit,
        batch: Sequence[PlannedVideo],
        futures: Mapping[str, Future[Result]],
        lane: int | None = None,
    ) -> None:
        """Make some videos at once, or one in a lane, and hand them to the writing threads."""
        assert loaded.picture is not None
        started_at = now()
        for planned, made in zip(batch, self._generated(loaded.picture, batch, lane), strict=True):
            error = made.exception()
            if error is None:
                threads = None if lane is None else made.result().torch_threads
                embedded = self._embedded(loaded.picture, planned, made.result(), threads)
                work: Callable[[], Result] = partial(self._write, loaded, planned, made.result(), embedded, started_at)
                self._room.acquire()
            elif isinstance(error, StoppingError):
                futures[planned.video_id].set_exception(error)
                continue
            elif isinstance(error, Exception):  # the per-item boundary
                work = partial(self.committer.fail, failure_of(loaded.unit, planned, "generate", error))
            else:
                raise error
            writing = self._writers.submit(self._settle, futures[planned.video_id], planned, work)
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    def _generated(
        self, picture: NDArray[np.uint8], batch: Sequence[PlannedVideo], lane: int | None
    ) -> list[Future[Generated]]:
        """Return a finished future for each video, after counting an attempt at it.

        Raises: ProcessError when an error condemns the process.
        """
        for planned in batch:
            self.attempts.begin(planned.video_id)
        try:
            if lane is None:
                made = self.engine.generate_batch(picture, [(planned.cell, planned.seed) for planned in batch])
            else:
                made = [self.engine.generate_in_lane(lane, picture, batch[0].cell, batch[0].seed)]
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
        failure = failure_of(
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
        self, loaded: LoadedUnit, planned: PlannedVideo, generated: Generated, embedded: Embedded, started_at: str
    ) -> Result:
        """Encode and commit a video for which there was room, one of few at a time until it is encoded."""
        try:
            with self._encoders:
                encoded = self.committer.encode(loaded, planned, generated, embedded, started_at)
        finally:
            self._room.release()
        return encoded if isinstance(encoded, FailureRecord) else self.committer.commit(encoded)

    def _settle(self, future: Future[Result], planned: PlannedVideo, work: Callable[[], Result]) -> None:
        """Give the future work()'s result or error; runs in the threads that write."""
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(self._condemned([planned], error) if condemns(error) else error)

    def _embedded(
        self, picture: NDArray[np.uint8], planned: PlannedVideo, generated: Generated, torch_threads: int | None
    ) -> Embedded:
        """Return what CLIP says of a video where a metric asks for it; nothing, and a note, where that fails."""
        if not any("embeddings" in METRICS[name].needs for name in self.settings.metrics):
            return Embedded(None, 0.0)
        start = time.perf_counter()
        try:
            first, *others = self.engine.embed([picture, *generated.frames], torch_threads)
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
        if wait([*self._jobs, *self._lanes.values()], PATIENCE_S).not_done:
            self.engine.cancel()
        is_idle = not wait([*self._jobs, *self._lanes.values()], PATIENCE_S).not_done
        is_idle = is_idle and not wait(self._writing.copy(), PATIENCE_S).not_done
        if is_idle:
            for thread in (self._planner, self._denoiser, self._writers):
                thread.shutdown()
        return is_idle


def _taken(groups: deque[deque[PlannedVideo]], num_videos: int) -> list[PlannedVideo]:
    """Take so many videos of the first group out of it, and the group away where none is left."""
    taken = [groups[0].popleft() for _ in range(num_videos)]
    if not groups[0]:
        groups.popleft()
    return taken


def _no_picture(loaded: LoadedUnit) -> FailureRecord:
    return failure_of(loaded.unit, None, "load", ItemError("the picture did not load"))


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
