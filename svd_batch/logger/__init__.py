"""A run while it goes on, in W&B or TensorBoard. Lives in the driver alone; Ray's workers know nothing of it.

What is logged is put into a queue and written by a thread, so that a slow network or disk stops nobody. The first
failure ends the logging and is told once; the run goes on.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from svd_batch.config import LoggerConfig, LoggerKind
from svd_batch.console import Console, Progress
from svd_batch.errors import UserError
from svd_batch.extras import require
from svd_batch.logger.background import Background, Sink
from svd_batch.logger.values import Counts, of_video
from svd_batch.records import FailureRecord, VideoRecord

if TYPE_CHECKING:
    from svd_batch.job import Job

__all__ = ["RunLog", "check", "logging"]


def check(config: LoggerConfig) -> None:
    """Check that what the logger needs is here; touches no network.

    Raises: UserError for a missing or broken package, or W&B without an account.
    """
    if config.kind is None:
        return
    name = config.kind.value
    require(name, f"+logger={name}")
    try:
        importlib.import_module(name)  # here, not in the thread: two threads that import at once may lock each other
    except ImportError as error:
        raise UserError(f"+logger={name}: the package {name} can't be imported: {error}") from None
    if config.kind is LoggerKind.wandb:
        from svd_batch.export.wandb_run import check_account, is_offline

        if not is_offline(config.offline):
            check_account("+logger=wandb", "logger.offline=true")


class RunLog:
    """Takes every finished item; logs nothing where there is no thread to write it."""

    def __init__(self, background: Background | None = None, *, interval_s: float = 0.0, num_before: int = 0) -> None:
        self.exit_code = 0
        """What the run ends with; set before the end."""
        self._background = background
        self._interval_s = interval_s
        self._counts = Counts(num_before)
        self._last_progress = -float("inf")
        self._last: dict[str, float] = {}

    def add(self, result: VideoRecord | FailureRecord, progress: Progress) -> None:
        """Log one finished item at once, and how the run gets on where that is due."""
        if self._background is None:
            return
        self._counts.add(result)
        values = of_video(result) if isinstance(result, VideoRecord) else {}
        self._last = self._counts.of_run(progress)
        now = time.monotonic()
        if now - self._last_progress >= self._interval_s:
            self._last_progress = now
            values |= self._last
        if values:
            self._background.put(values, self._counts.step)

    def take_notes(self) -> Sequence[str]:
        """Return what a person should know and hasn't been told."""
        return self._background.take_notes() if self._background is not None else ()

    def close(self) -> None:
        """Log the last state and wait for the thread, a minute at most."""
        if self._background is not None:
            if self._last:
                self._background.put(self._last, self._counts.step)
            self._background.close(self.exit_code)


@contextmanager
def logging(job: Job, console: Console) -> Iterator[RunLog]:
    """Yield the log of a job's run, open for as long as this is; it needs run.json in the output folder."""
    config = job.config.logger
    if config.kind is None or not job.plan.num_todo:
        yield RunLog()
        return
    plan = job.plan
    num_before = plan.num_done + plan.num_left_failed
    log = RunLog(Background(_sink(job)), interval_s=config.interval_s, num_before=num_before)
    try:
        log.exit_code = 1  # should something else than an interruption end it
        yield log
    finally:
        log.close()
        for note in log.take_notes():
            console.say(note)


def _sink(job: Job) -> Sink:
    from svd_batch.logger import sinks

    config = job.config.logger
    below = Path(config.folder).expanduser() if config.folder is not None else job.store.here
    if config.kind is LoggerKind.wandb:
        return sinks.WandbSink(job.store, below, config)
    return sinks.TensorboardSink(job.store, below if config.folder is not None else below / "tensorboard")
