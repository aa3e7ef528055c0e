"""How many videos are made at once, and how a CPU makes several: knows no pictures and no settings but a cell's."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from svd_batch.engine.machine import peak_resident_bytes, reset_peak_resident_bytes
from svd_batch.records import SweepCell

T = TypeVar("T")

LEAST_GAIN = 1.03
"""What doubling a batch must gain in videos a second; less is noise, and a smaller batch needs less memory."""
ROUNDS = 2
"""Rounds of each size that are measured; the best counts."""


def batch_key(cell: SweepCell) -> Hashable:
    """Return what cells must have in common to share a batch.

    Timesteps are shared by a batch, stock turns guidance on or off as a whole, and the approximations skip work at
    steps of their own.
    """
    approximations = (cell.sampler, cell.guidance_sigma_min, cell.guidance_sigma_max, cell.deep_cache_interval)
    return (cell.num_inference_steps, cell.max_guidance_scale > 1, cell.decode_chunk_size, *approximations)


class BatchSize:
    """The number of videos to make at once: doubled as long as that makes more videos a second and fits.

    The sizes are measured on the videos that are wanted anyway. `fixed` measures nothing.
    """

    def __init__(self, most: int, fixed: int | None = None) -> None:
        self.most = most
        self.fixed = fixed
        self._best = 1
        self._trying = 1
        self._seconds: dict[int, list[float]] = {}
        self._is_warm = False

    def choose(self, available: int) -> int:
        """Return the size of the next batch, where `available` videos may share one."""
        return max(1, min(available, self.fixed or self._trying, self.most))

    @property
    def settled(self) -> int | None:
        """The size that is kept from now on; None while sizes are still tried."""
        if self.fixed is not None:
            return min(self.fixed, self.most)
        return self._best if self._best == self._trying and len(self._seconds.get(self._best, ())) >= ROUNDS else None

    def limit(self, most: int) -> None:
        """Never choose more than `most` from now on: more doesn't fit in memory."""
        self.most = max(1, most)
        self._trying = min(self._trying, self.most)
        self._best = min(self._best, self.most)

    def measured(self, size: int, seconds: float) -> None:
        """Count a round of `size` videos that took `seconds`, in units that any two rounds can be compared in."""
        if not self._is_warm:  # the first round compiles kernels and fills caches
            self._is_warm = True
            return
        if self.fixed is not None or size != self._trying:
            return
        self._seconds.setdefault(size, []).append(seconds / size)
        if len(self._seconds[size]) < ROUNDS:
            return
        gains = size == 1 or min(self._seconds[self._best]) > LEAST_GAIN * min(self._seconds[size])
        self._best = size if gains else self._best
        larger = min(2 * size, self.most)
        self._trying = larger if gains and larger > size and larger not in self._seconds else self._best


class Lanes:
    """Makes several videos at once on a CPU, each in a thread of its own on its share of the cores.

    Two threads on one video wait for each other at every operation; two videos with a thread each don't. The weights
    are shared, what changes during a call is each lane's own. A video's bits depend on the threads of its lane alone.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipes = [pipe]
        self._threads: list[ThreadPoolExecutor] = []
        """Of the second lane and on: each thread that computes keeps a pool of OpenMP's, so there are no others."""
        self._peaks: dict[int, int] = {}
        """Bytes that were seen at the most while the video of a lane was made; of those in the making."""
        self.most = sys.maxsize
        """Lanes that may be taken at once."""
        self._is_reserved = False
        self._changed = threading.Condition()

    def renew(self) -> None:
        """Make the further pipelines anew when they are next asked for: the first has other settings now."""
        del self._pipes[1:]

    def submit(self, lane: int, work: Callable[[], T]) -> Future[T]:
        """Begin with work() in the thread of a lane from the second (1) on; the first is any caller's own."""
        while len(self._threads) < lane:
            self._threads.append(ThreadPoolExecutor(1, thread_name_prefix=f"lane_{len(self._threads) + 1}"))
        return self._threads[lane - 1].submit(work)

    def run(self, calls: Sequence[Callable[[Any], T]], num_threads: int) -> list[Future[T]]:
        """Return finished futures, one for each call with a pipeline; all start at once and share `num_threads`."""
        each = max(1, num_threads // len(calls))
        work = [partial(_on_threads, each, call, self._pipe(lane)) for lane, call in enumerate(calls)]
        others = [self.submit(lane, there) for lane, there in enumerate(work) if lane]
        first: Future[T] = Future()
        try:
            first.set_result(work[0]())
        except Exception as error:
            first.set_exception(error)
        for other in others:
            other.exception()  # waits
        return [first, *others]

    @contextmanager
    def taken(self, lane: int, num_threads: int) -> Iterator[Any]:
        """Yield the pipeline of a lane, to be used in the lane's thread.

        Waits as long as somebody is `alone`, or `most` are taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_reserved and len(self._peaks) < self.most)
            self._look()
            self._peaks[lane] = 0
            reset_peak_resident_bytes()
            pipe = self._pipe(lane)
        torch.set_num_threads(num_threads)  # counts for the calling thread alone, under OpenMP
        try:
            yield pipe
        finally:
            with self._changed:
                del self._peaks[lane]
                self._changed.notify_all()

    def peak_bytes(self, lane: int) -> int:
        """Return the process's highest resident memory since a lane was taken."""
        with self._changed:
            self._look()
            return self._peaks[lane]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no lane is taken, and let none be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_reserved)
            self._is_reserved = True
            self._changed.wait_for(lambda: not self._peaks)
        try:
            yield
        finally:
            with self._changed:
                self._is_reserved = False
                self._changed.notify_all()

    def _look(self) -> None:
        peak = peak_resident_bytes()
        for lane, known in self._peaks.items():
            self._peaks[lane] = max(peak, known)

    def _pipe(self, lane: int) -> Any:
        while len(self._pipes) <= lane:
            self._pipes.append(_with_shared_weights(self._pipes[0]))
        return self._pipes[lane]


def _on_threads(num_threads: int, call: Callable[[Any], T], pipe: Any) -> T:
    torch.set_num_threads(num_threads)  # counts for the calling thread alone, under OpenMP
    return call(pipe)


def _with_shared_weights(pipe: Any) -> Any:
    """Return a pipeline with the same weights and conditioning but a scheduler and a memory of its own."""
    unet = copy.copy(pipe.unet)
    unet._modules = dict(unet._modules)  # deep_cache.py replaces blocks for the length of a step
    if hasattr(unet, "remembered"):
        unet.remembered = {}
    lane = type(pipe)(**{**pipe.components, "unet": unet, "scheduler": copy.deepcopy(pipe.scheduler)})
    lane.known, lane.split_guidance = pipe.known, pipe.split_guidance
    lane.set_progress_bar_config(**pipe._progress_bar_config)
    return lane
