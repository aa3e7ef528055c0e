"""`cluster=ray`: hands the job to a running Ray cluster through its job submission API, and follows it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

import svd_batch
from svd_batch.access import printable, unsecret
from svd_batch.console import size
from svd_batch.errors import ProcessError, UserError
from svd_batch.stopping import INTERRUPTED
from svd_batch.submit.job_server import connect
from svd_batch.submit.package import PackedFile, collect, largest, write_zip
from svd_batch.submit.requirements import pinned
from svd_batch.submit.settings import RayCluster
from svd_batch.submit.submission import Say, Submission, is_anywhere, secrets, unfound

POLL_S = 1.0
PATIENT_POLLS = 5
"""Questions to a job that has not started before the person is told what it waits for."""

MOST_SILENT = 10
"""Questions without an answer, one after the other, after which following ends."""

INSTALL_TIMEOUT_S = 3600
"""Ray's own ten minutes are few for PyTorch."""


class RayJob:
    """One submission to Ray's job server; a Cluster."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.settings = cast("RayCluster", submission.cluster)
        if not is_anywhere(submission.output):
            raise UserError(
                f"output: {submission.output!r} is a folder of this machine, or of one node alone; give an absolute "
                "path on a disk that all nodes of the cluster share, or an address in a store"
            )

    # --- what is sent ---------------------------------------------------------------------------------------

    @cached_property
    def _working_dir(self) -> Path | None:
        if self.settings.working_dir is None:
            return None
        folder = Path(self.settings.working_dir).expanduser().resolve()
        if not folder.is_dir():
            raise UserError(f"cluster.working_dir: {self.settings.working_dir!r} is no folder; give one, or null")
        return folder

    @cached_property
    def _files(self) -> list[PackedFile]:
        files = collect(self._working_dir, self.settings.exclude, self.submission.conf)
        for where, place in unfound(self.submission, [file.name for file in files]):
            raise UserError(
                f"{where}: {place!r} is not among the files that travel to the cluster; give a path below "
                f"cluster.working_dir ({self.settings.working_dir}) that cluster.exclude and its rules let through, an "
                "absolute path that all nodes have, or an address in a store"
            )
        return files

    @property
    def _entrypoint(self) -> str:
        check = shlex.join(["python", "-m", "svd_batch.submit.preflight"])
        return f"{check} && exec {shlex.join(['python', '-m', 'svd_batch', *self.submission.words()])}"

    def _metadata(self) -> dict[str, str]:
        own = {"svd_batch": svd_batch.__version__, "output": unsecret(self.submission.output)}
        return {**own, "verb": self.settings.verb.value, **{k: str(v) for k, v in self.settings.metadata.items()}}

    def _runtime_env(self) -> dict[str, Any]:
        """Return the runtime environment, less the archive and what is secret."""
        waiting = {"RAY_JOB_STOP_WAIT_TIME_S": str(self.settings.stop_wait_s)}
        environment: dict[str, Any] = {"env_vars": {**waiting, **self.settings.env}}
        if self.settings.install:
            environment["pip"] = {"packages": pinned("svd_batch"), "pip_check": False}
            environment["config"] = {"setup_timeout_seconds": INSTALL_TIMEOUT_S}
        return environment

    def _resources(self) -> dict[str, Any]:
        names = ("entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory", "entrypoint_resources")
        return {name: value for name in names if (value := getattr(self.settings, name))}

    @contextmanager
    def _archive(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="svdb-submit-") as folder:
            archive = Path(folder, "working_dir.zip")
            write_zip(self._files, archive, self._working_dir)
            yield archive

    def plan(self) -> str:
        """Return all that would be sent, as YAML."""
        with self._archive() as archive:
            packed = archive.stat().st_size
        environment = self._runtime_env()
        for name in self.settings.env_from:
            environment["env_vars"][name] = "(from your environment)"
        environment["working_dir"] = {
            "packed": f"{len(self._files)} files, {size(packed)}",
            **{name: size(num_bytes) for name, num_bytes in largest(self._files, 20)},
        }
        request = {
            "address": self.settings.address,
            "submission_id": f"{self._stem}-N, N one more than the last",
            "entrypoint": unsecret(self._entrypoint),
            **self._resources(),
            "metadata": self._metadata(),
            "runtime_env": environment,
        }
        return yaml.safe_dump(request, sort_keys=False, width=10_000, allow_unicode=True)

    # --- the cluster ----------------------------------------------------------------------------------------

    @property
    def _stem(self) -> str:
        """Return what the ids of all submissions for this OUTPUT begin with."""
        output = self.submission.output.rstrip("/")
        name = re.sub(r"[^a-z0-9]+", "-", unsecret(output).rpartition("/")[2].lower()).strip("-")[:30]
        return f"svdb-{name or 'output'}-{hashlib.sha256(output.encode()).hexdigest()[:8]}"

    def _earlier(self, client: Any) -> list[Any]:
        """Return what the cluster remembers of submissions for this OUTPUT, the oldest first."""
        jobs = [(_number(job.submission_id, self._stem), job) for job in _told(client.list_jobs)]
        return [job for number, job in sorted((j for j in jobs if j[0]), key=lambda j: j[0])]

    def submit(self, say: Say, warn: Say, *, wait: bool, apply: bool) -> int:
        """Send the job, and with `wait` show its lines until it ends; return its exit code."""
        if apply:
            raise UserError("--apply: cluster=ray has no use for it; leave it out")
        environment = self._runtime_env()
        environment["env_vars"] |= secrets(self.settings.env_from)
        with self._archive() as archive:
            client = connect(self.settings.address, warn)
            earlier = self._earlier(client)
            if earlier and not _is_over(earlier[-1]):
                raise UserError(
                    f"output: {self.submission.output} is being made by {earlier[-1].submission_id}, which is "
                    f"{earlier[-1].status.value}; wait, or stop it with --stop and the same arguments"
                )
            number = 1 + (_number(earlier[-1].submission_id, self._stem) if earlier else 0)
            job_id = _told(
                client.submit_job,
                entrypoint=self._entrypoint,
                submission_id=f"{self._stem}-{number}",
                runtime_env={**environment, "working_dir": str(archive)},
                metadata=self._metadata(),
                **self._resources(),
            )
        say(f"submitted {job_id} to {self.settings.address}")
        if not wait:
            say("--status says how it stands and --stop stops it, each with the same arguments")
            return 0
        return self._follow(client, job_id, say)

    def _follow(self, client: Any, job_id: str, say: Say) -> int:
        try:
            return _exit_code(_until_over(client, job_id, say), say)
        except KeyboardInterrupt:
            say(f"no longer following {job_id}, which goes on; --status and --stop with the same arguments reach it")
            return INTERRUPTED

    def status(self, say: Say) -> int:
        """Say how the last submission stands, and the end of its log where it failed."""
        client = connect(self.settings.address, lambda text: say(f"warning: {text}"))
        earlier = self._earlier(client)
        if not earlier:
            say(f"{self.settings.address} knows of no submission for {self.submission.output}")
            return 1
        last = earlier[-1]
        code = "" if last.driver_exit_code is None else f", exit code {last.driver_exit_code}"
        say(f"{last.submission_id}: {last.status.value}{code}: {printable(last.message or '')}")
        return 0

    def stop(self, say: Say) -> int:
        """Stop what runs, and wait until it has ended in order."""
        client = connect(self.settings.address, lambda text: say(f"warning: {text}"))
        running = [job for job in self._earlier(client) if not _is_over(job)]
        if not running:
            say(f"no submission for {self.submission.output} is running at {self.settings.address}")
            return 1
        job_id = running[-1].submission_id
        _told(client.stop_job, job_id)
        say(f"stopping {job_id}; what is finished is kept")
        deadline = time.monotonic() + self.settings.stop_wait_s + 30
        while not _is_over(job := _told(client.get_job_info, job_id)):
            if job.status.value == "PENDING":
                say(f"{job_id} has not started yet; Ray ends it as soon as it does, or gives it up after a while")
                return 0
            if time.monotonic() > deadline:
                raise ProcessError(f"{job_id} is still {job.status.value}; look at Ray's dashboard")
            time.sleep(POLL_S)
        say(f"{job_id}: {job.status.value}; the same arguments without --stop go on from here")
        return 0


def _number(submission_id: str | None, stem: str) -> int:
    """Return the number of one of our submissions, 0 for any other."""
    head, _, number = (submission_id or "").rpartition("-")
    return int(number) if head == stem and number.isdigit() else 0


def _is_over(job: Any) -> bool:
    return bool(job.status.is_terminal())


def _told(call: Any, *arguments: Any, **options: Any) -> Any:
    """Return what a call of Ray's client returns, with one sentence for whatever it raises."""
    import requests

    try:
        return call(*arguments, **options)
    except requests.exceptions.RequestException as error:
        raise ProcessError(
            f"cluster.address: the job server does not answer any more: {error}; once it does, --status says what "
            "became of the job"
        ) from None
    except (RuntimeError, ValueError, ConnectionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"cluster=ray: Ray refuses: {printable(lines[-1] if lines else type(error).__name__)}"
        ) from None


# --- following ------------------------------------------------------------------------------------------------


@dataclass
class _Log:
    """Says the lines of a log that is read again from its beginning whenever the connection is lost."""

    say: Say
    num_read: int = 0
    """Characters of the log that have been said, or wait in `rest` for the end of their line."""
    rest: str = ""

    async def follow(self, client: Any, job_id: str) -> None:
        """Say lines until the connection ends."""
        position = 0
        async for text in client.tail_job_logs(job_id):
            new = text[max(0, self.num_read - position) :]
            position += len(text)
            if new:
                self.num_read = position
                *lines, self.rest = (self.rest + new).split("\n")
                for line in lines:
                    self.say(line)

    def finish(self) -> None:
        """Say the last line where it has no end."""
        if self.rest:
            self.say(self.rest)
        self.rest = ""


def _until_over(client: Any, job_id: str, say: Say) -> Any:
    """Say the job's lines as they come and return what is known of it at its end."""
    log, told, num_silent, num_pending = _Log(say), "", 0, 0
    while True:
        try:
            job = _told(client.get_job_info, job_id)
        except ProcessError:
            num_silent += 1
            if num_silent > MOST_SILENT:
                raise
            time.sleep(POLL_S)
            continue
        num_silent = 0
        if job.status.value == "PENDING":
            num_pending += 1
            if num_pending > PATIENT_POLLS and job.message != told:
                say(f"waiting: {printable(job.message or '')}")
                told = job.message
            time.sleep(POLL_S)
            continue
        try:
            asyncio.run(log.follow(client, job_id))  # until the job is over
        except (RuntimeError, OSError, _client_error()):  # told by the next question, if the cluster is gone
            time.sleep(POLL_S)
            continue
        if _is_over(job := _told(client.get_job_info, job_id)):
            log.finish()
            return job


def _client_error() -> type[Exception]:
    from aiohttp import ClientError

    return ClientError


def _exit_code(job: Any, say: Say) -> int:
    """Say how the job ended and return the exit code for it."""
    state = job.status.value
    if state == "SUCCEEDED":
        return 0
    if state == "STOPPED":
        say(f"{job.submission_id} was stopped; what is finished is kept, and the same arguments go on from here")
        return INTERRUPTED
    if job.driver_exit_code is None:  # it never began, as when pip fails
        raise UserError(f"{job.submission_id} did not start: {_first_lines(job.message)}")
    if job.driver_exit_code < 0:
        raise ProcessError(
            f"{job.submission_id} was ended by signal {-job.driver_exit_code}; what is finished is kept, and the same "
            "arguments go on from here"
        )
    say(f"{job.submission_id} failed with exit code {job.driver_exit_code}; its last lines above say why")
    return int(job.driver_exit_code)


def _first_lines(message: str | None) -> str:
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return printable(" ".join(lines)[:500])
