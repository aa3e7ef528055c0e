"""The main job: plan -> backend -> tables -> report. Knows no Hydra and no torch."""

from __future__ import annotations

import dataclasses
import math
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import svd_batch
from svd_batch import checkpoint, dataset, logger, on_end
from svd_batch.access import printable, short, unsecret
from svd_batch.attempts import AttemptLog
from svd_batch.backends import LoadSettings, make_backend, remove_leftovers
from svd_batch.config import Config, Dtype, Offload, folder_settings
from svd_batch.console import Console, Progress, duration, size
from svd_batch.errors import ProcessError, SvdBatchError, UserError
from svd_batch.events import EventLog
from svd_batch.images import one_line
from svd_batch.job import Job, cautions, describe, pinned_model, prepare, unreadable, up_to_date
from svd_batch.lease import Lease
from svd_batch.logger import RunLog
from svd_batch.metrics import METRICS
from svd_batch.parts import PART_ROWS
from svd_batch.plan import heaviest_cell, split_units
from svd_batch.records import FailureRecord, Result, VideoRecord
from svd_batch.recover import recover, writing
from svd_batch.room import check_room
from svd_batch.settings import GenerateSettings
from svd_batch.stopping import INTERRUPTED, at_once, interruptible
from svd_batch.store import Store

FINISHED, TOO_MANY_FAILED = 0, 3

ENOUGH = 20
"""Pictures that must have been tried before a run is stopped for those that fail."""

_MOST_MESSAGES = 10_000
"""Different messages of failures that are counted."""


def run(config: Config, console: Console, *, config_yaml: str = "", command: str = "") -> int:
    """Do the job and return the exit code: 0 finished, 3 too many images failed, 130 interrupted.

    Raises: UserError before anything is generated; ProcessError when the same command must go on in a new process.
    """
    logger.check(config.logger)
    on_end.check(config.on_end)
    with interruptible():
        job = prepare(config)
        check_device(job)
        check_room(job, console)
        with on_end.notified(config.on_end, job.store.root, console) as events:
            with writing(job.store, console) as lease:
                events.exit_code = _run(up_to_date(job), console, lease, events, texts=(config_yaml, command))
            return events.exit_code


def _run(job: Job, console: Console, lease: Lease, events: EventLog, *, texts: tuple[str, str]) -> int:
    console.say(describe(job))
    begin(job, console, events, texts=texts)
    start = time.monotonic()
    with logger.logging(job, console) as log:
        with ending() as end, Generation(job, console, lease, events, log) as generate:
            generate(job)
        lease.check()
        log.exit_code = finish(job, console, time.monotonic() - start, num_asked=job.plan.num_todo, end=end)
    return log.exit_code


class TooManyFailedError(SvdBatchError):
    """More pictures fail than max_failed_fraction allows, and that won't change."""


@dataclass
class End:
    """How the generating ended: by itself where nothing is set."""

    interrupted: bool = False
    stopped: str = ""
    """Why it was stopped before its end."""
    error: ProcessError | None = None


@contextmanager
def ending() -> Iterator[End]:
    """Yield what tells afterwards how the generating ended; after each of these ends there are tables to write."""
    end = End()
    try:
        yield end
    except KeyboardInterrupt:
        end.interrupted = True
    except TooManyFailedError as error:
        end.stopped = str(error)
    except ProcessError as error:
        end.error = error


def begin(job: Job, console: Console, events: EventLog, *, texts: tuple[str, str]) -> None:
    """Warn of what will fail, fetch the weights, and write what the output folder keeps of this run.

    `texts`: the resolved configuration as YAML, and the command.

    Raises: UserError before anything is generated.
    """
    config_yaml, command = (unsecret(on_end.hidden(text, job.config.on_end)) for text in texts)
    now = datetime.now(UTC)
    path = job.store.logs_dir / f"events-{now:%Y%m%dT%H%M%S}.jsonl"
    fields = {"output": job.store.root.resolve().name, "model": job.config.model.name}
    events.begin(path, fields, job.store.share_log)
    remove_leftovers()  # also where nothing is to do, as after a run that was killed behind its last video
    if job.plan.num_todo:
        for image, reason in unreadable(job, job.config.check_images):
            console.warn(f"{short(printable(image.image_path or image.image_id), 160)} will fail: {reason}")
        if job.config.backend.address is None:  # each node of a cluster fetches for itself
            model, pinned = job.config.model, pinned_model(job)
            checkpoint.fetch(model)  # by its name, which is known offline from now on
            if pinned != model:  # a hub's: nothing more to fetch, unless the name has moved on since the plan
                checkpoint.fetch(pinned)
    for caution in cautions(job):
        console.warn(caution)
    job.store.write_run(_run_json(job, command, now, path.name))
    if config_yaml:
        job.store.write_config(config_yaml)
    if job.config.retry_failed:
        AttemptLog(job.store).renew()
    dataset.save_images(job.store, job.manifest.carried)


def check_device(job: Job) -> None:
    """Raise UserError for settings that this machine can't do, where it is the one that generates."""
    config = job.config
    if not job.plan.num_todo or config.backend.address is not None:  # each node of a cluster checks for itself
        return
    if config.model.dtype is Dtype.float16 or config.memory.offload is not Offload.none:
        from svd_batch.engine.machine import check_machine, device_type

        check_machine(config.model, config.memory, device_type())


def _run_json(job: Job, command: str, now: datetime, events: str) -> dict[str, Any]:
    run = job.store.read_run()
    entry = {
        "command": command or unsecret(on_end.hidden(shlex.join(sys.argv), job.config.on_end)),
        "started_at": now.isoformat(timespec="seconds"),
        "host": platform.node(),
        "directory": str(Path.cwd()),
        "events": events,
        "num_records": len(job.plan.done),
        **_counts(job),
        "svd_batch_version": svd_batch.__version__,
        "python_version": platform.python_version(),
    }
    return {
        "format": 1,
        "fingerprint": job.fingerprint,
        "settings": folder_settings(job.config, job.revision),
        "manifest": _manifests(run, [str(f) for f in job.manifest.files]),
        "runs": [*run.get("runs", []), entry],
    }


def _counts(job: Job) -> dict[str, int]:
    plan = job.plan
    return {
        "num_asked": plan.num_videos,
        "num_done": plan.num_done,
        "num_left_failed": plan.num_left_failed,
        "num_todo": plan.num_todo,
    }


def add_to_run(job: Job) -> None:
    """Note in run.json that the last run has these videos to make as well."""
    run = job.store.read_run()
    entry = run["runs"][-1]
    entry |= {name: entry[name] + number for name, number in _counts(job).items()}
    job.store.write_run(run)


def _manifests(run: dict[str, Any], files: list[str]) -> list[str]:
    """Return every manifest that the folder's videos may come from, the last run's first, each once."""
    return list(dict.fromkeys([*files, *run.get("manifest", [])]))


def generate_settings(job: Job) -> GenerateSettings:
    """Return what the generating stage is told of the job."""
    config, model = job.config, pinned_model(job)
    return GenerateSettings(
        output=str(job.store.root.resolve()),
        model=model,
        model_revision=job.revision,
        memory=config.memory,
        speed=config.speed,
        video=config.video,
        fingerprint=job.fingerprint,
        reproducible=config.reproducible,
        heaviest=heaviest_cell(job.plan),
        metrics=_metrics(config),
        item_timeout_s=config.item_timeout_s,
    )


def _metrics(config: Config) -> tuple[str, ...]:
    """Return what to measure of each video: what is asked for, and what drafts are chosen by."""
    wanted = {*config.metrics.chosen(), *([config.refine.metric] if config.refine.best is not None else [])}
    return tuple(name for name in METRICS if name in wanted)


class Generation:
    """Makes the videos of jobs that share a configuration: a context manager, called with each job in turn.

    The backend starts with the first job that has something to make and stops at the end. `console` is where lines go
    meanwhile, since everybody else's output is on its way to a log. An interruption leaves as KeyboardInterrupt.
    """

    def __init__(self, job: Job, console: Console, lease: Lease, events: EventLog, log: RunLog | None = None) -> None:
        config, model = job.config, job.config.model
        self.console = console
        self._events = events
        self._lease = lease
        self._log = log or RunLog()
        self._verbose = config.verbose
        self._store, self._logs = job.store, job.store.logs_dir
        self._backend = make_backend(config.backend, verbose=config.verbose)
        self._num_actors: int | None = None
        self._gathered: list[VideoRecord] = []
        """Records that are not in a part yet."""
        self._stack = ExitStack()
        self._load = LoadSettings(model.height, model.width, config.fit, config.access())
        self._settings = generate_settings(job)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is KeyboardInterrupt:
            self.console.warn("stopping; what is finished will be kept. Once more stops at once")
        self._stack.__exit__(kind, *error)
        if not self._lease.is_lost:
            with suppress(OSError, UserError):  # a full disk has been told of
                AttemptLog(self._store).withdraw()

    def __call__(self, job: Job) -> None:
        """Make what the job's plan has to do."""
        if not job.plan.num_todo:
            return
        if self._num_actors is None:
            self._num_actors = self._start()
        units = split_units(job.plan, self._num_actors)
        num_videos = math.ceil(job.plan.num_todo / self._num_actors)
        settings = dataclasses.replace(self._settings, num_videos=num_videos, heaviest=heaviest_cell(job.plan))
        tally = Tally(job)
        self._events.ask(job.plan.num_todo)
        with Progress(job.plan.num_todo, self.console) as progress:
            for result in self._backend.run(units, self._load, settings, progress.say_once):
                self._lease.check()
                progress.update(failed=isinstance(result, FailureRecord))
                self._events.add(result)
                self._log.add(result, progress)
                for note in self._log.take_notes():
                    progress.say_once(note)
                tally.add(result)
                self._gather(result)
        tally.check_all_there()

    def _gather(self, result: Result) -> None:
        """Put records into a part as soon as there are enough for one; the others stay in files of their own."""
        if isinstance(result, VideoRecord):
            self._gathered.append(result)
        if len(self._gathered) >= PART_ROWS:
            self._store.put_into_part(self._gathered)
            self._gathered.clear()

    def _start(self) -> int:
        log = self._logs / f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}.log"
        self.console = self._stack.enter_context(lines_only(self.console, log, verbose=self._verbose))
        self._stack.enter_context(at_once(self._backend.drop))  # until the backend has stopped
        self._stack.callback(self._backend.stop, self._logs)
        num_actors = self._backend.start(self.console.say)
        self._stack.enter_context(interruptible())  # anew: Ray's start takes SIGTERM for itself
        return num_actors


@contextmanager
def lines_only(console: Console, log: Path, *, verbose: bool) -> Iterator[Console]:
    """Yield a console whose lines alone reach the terminal; everybody else's go to `log`, unless verbose."""
    if verbose:
        yield console
        return
    with console.quiet(log) as quiet:
        yield quiet


class Failures:
    """Counts failures: how many, of which pictures, and what most of them say. Holds none of them."""

    def __init__(self) -> None:
        self.num = 0
        self.image_ids: set[str] = set()
        self._messages: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, failure: FailureRecord) -> None:
        """Count one failure."""
        self.num += 1
        self.image_ids.add(failure.image_id)
        message = f"{failure.stage}: {failure.error_message}"
        if message in self._messages or len(self._messages) < _MOST_MESSAGES:
            self._messages[message] += 1
            self._examples.setdefault(message, failure.image_path or failure.image_id)

    def most_frequent(self) -> str:
        """Return the most frequent failure with one of its items as an example."""
        most = max(sorted(self._messages), key=self._messages.__getitem__)
        return f"{printable(self._examples[most])}: {most}"


class Tally:
    """Counts what comes back of a job: whether to go on, and in the end whether it is all there."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._num_results = 0
        self._is_any_made = False
        self._tried: set[str] = set()
        """Pictures, until there are ENOUGH."""
        self._failures = Failures()
        """The first failure of each picture that has one."""

    def add(self, result: Result) -> None:
        """Count a result.

        Raises: TooManyFailedError, once ENOUGH pictures were tried, when all of them failed, or when more failed in
        this run than max_failed_fraction allows of all pictures.
        """
        self._num_results += 1
        if len(self._tried) < ENOUGH:
            self._tried.add(result.image_id)
        if isinstance(result, VideoRecord):
            self._is_any_made = True
            return
        if result.image_id not in self._failures.image_ids:
            self._failures.add(result)
        limit, num_failed = self._job.config.max_failed_fraction, len(self._failures.image_ids)
        num_images = self._job.plan.num_images
        if limit == 1 or len(self._tried) < ENOUGH:
            return
        if not self._is_any_made:
            raise TooManyFailedError(f"the first {num_failed} pictures all failed; {self._failures.most_frequent()}")
        if num_failed > limit * num_images:
            raise TooManyFailedError(
                f"{num_failed} of {num_images} pictures failed already; most often {self._failures.most_frequent()}"
            )

    def check_all_there(self) -> None:
        """Raise ProcessError unless there was one result for each planned video: nothing may be dropped silently."""
        num_planned = self._job.plan.num_todo
        if self._num_results != num_planned:
            raise ProcessError(
                f"backend: {self._num_results} results came back of {num_planned} planned videos; what is finished is "
                "kept, and the same command makes what is missing"
            )


def finish(job: Job, console: Console, seconds: float, *, num_asked: int, end: End) -> int:
    """Write tables, card and report; say what came out of the videos asked for; return the exit code.

    Raises: ProcessError, after that, where one ended the generating.
    """
    store = job.store
    recover(store)  # Ray starts a killed actor again, and what it was writing lies about
    totals = dataset.compact(store)
    dataset.write_card(store, job.config.model, job.revision, totals.num_videos, totals.num_images)
    report = write_page(store, console)
    failures = _failures(job)
    failed_images, num_images = len(failures.image_ids), job.plan.num_images
    made = f", {num_asked} asked for now, in {duration(seconds)}" if num_asked else ""
    console.say(f"videos:   {totals.num_videos} in {store.root / 'videos'} ({size(totals.num_bytes)}{made})")
    console.say(f"table:    {store.metadata}")
    if report is not None:
        console.say(f"report:   {report.resolve().as_uri()}")
    if failures.num:
        pictures = "1 picture" if failed_images == 1 else f"{failed_images} pictures"
        console.say(f"failures: {failures.num} in {store.failures_table}, of {pictures}; {failures.most_frequent()}")
    if end.error is not None:
        raise end.error
    if end.interrupted:
        console.say("interrupted: everything finished is kept; the same command goes on from here")
        return INTERRUPTED
    if end.stopped:
        console.say(
            f"stopped: {end.stopped}. More than max_failed_fraction={job.config.max_failed_fraction:g} allows; what is "
            "finished is kept, max_failed_fraction=1 goes on whatever fails"
        )
        return TOO_MANY_FAILED
    if failed_images > job.config.max_failed_fraction * num_images:
        console.say(
            f"too many failed: {failed_images} of {num_images} pictures, more than "
            f"max_failed_fraction={job.config.max_failed_fraction:g}"
        )
        return TOO_MANY_FAILED
    return FINISHED


def write_page(store: Store, console: Console) -> Path | None:
    """Return the written report; None, and a warning, where it can't be made: the videos don't depend on it."""
    from svd_batch.report import write_report

    try:
        return write_report(store.root, by_run=True)
    except (SvdBatchError, OSError):
        raise
    except Exception as error:
        console.warn(
            f"report: the page can't be made: {type(error).__name__}: {one_line(error)}; videos and tables are whole, "
            f"and `svd-batch report {store.root}` tries again"
        )
        return None


def _failures(job: Job) -> Failures:
    """Return what failed of the job's manifest, also in earlier runs."""
    on_record = {failure.image_id for failure in job.store.each_failure()}
    known = {image.image_id for image in job.manifest.images if image.image_id in on_record} if on_record else set()
    failures = Failures()
    for failure in job.store.each_failure():
        if failure.image_id in known:
            failures.add(failure)
    return failures
