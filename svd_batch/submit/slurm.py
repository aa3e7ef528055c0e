"""`cluster=slurm`: a batch script on its way, and what becomes of it. The script itself is in slurm_script.py."""

from __future__ import annotations

import getpass
import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from svd_batch.errors import UserError
from svd_batch.stopping import INTERRUPTED
from svd_batch.store import Store
from svd_batch.submit.settings import SlurmCluster
from svd_batch.submit.slurm_script import ScriptJob, script
from svd_batch.submit.submission import Say, Submission, hydra_quoted, secrets

POLL_S = 5.0
"""How often a job that is followed is asked for; Slurm's controller serves everybody."""

_PATIENCE_S = 120.0
"""How long the controller may give no answer while a job is followed."""

_ANSWER_S = 60.0
_FIELD = re.compile(r"(\S+?)=(.*?)(?=\s+[\w/:]+=|\s*$)")
_UNFINISHED = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "STAGE_OUT")
_LAST_BYTES = 20_000


@dataclass(frozen=True)
class SlurmState:
    """What Slurm says of a job."""

    job_id: str
    state: str
    reason: str
    nodes: str
    run_time: str
    num_restarts: int
    exit_code: int
    log: str

    @property
    def is_active(self) -> bool:
        """Whether it runs, or will."""
        return self.state in _UNFINISHED

    @property
    def waits_for(self) -> str:
        """What a pending job waits for, nothing where it doesn't wait or Slurm hasn't looked at it yet."""
        return self.reason if self.state == "PENDING" and self.reason != "None" else ""


class SlurmJob:
    """One OUTPUT's job on Slurm. The job is found by its name, which follows from OUTPUT."""

    def __init__(self, submission: Submission) -> None:
        cluster = submission.cluster
        assert isinstance(cluster, SlurmCluster)
        self.cluster = cluster
        self._check_size(submission)
        is_local = "://" not in submission.output
        self.output = str(Path(submission.output).expanduser().resolve()) if is_local else submission.output
        digest = hashlib.sha256(self.output.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        last = re.sub(r"[^\w.-]+", "_", self.output.rstrip("/").rpartition("/")[2])
        self.name = f"svdb-{last[:40]}-{digest}"
        self.store = Store(Path(self.output)) if is_local else None
        self.folder = self.store.internal / "slurm" if self.store else Path.cwd() / "slurm" / self.name
        self.log = cluster.log or str(self.folder / "slurm-%j.log")
        address = ["backend.address=auto"] if cluster.nodes > 1 else []
        words = [cluster.verb.value, *submission.arguments, f"output={hydra_quoted(self.output)}", *address]
        python = cluster.python or sys.executable
        paths = PurePosixPath(Path.cwd()), PurePosixPath(self.folder)
        self._script = script(cluster, ScriptJob(self.name, tuple(words), *paths, python, self.log))

    def _check_size(self, submission: Submission) -> None:
        """Raise UserError where a node's CPUs would not do for its actors, after hours in a queue."""
        cluster, backend = self.cluster, submission.config.backend
        if cluster.cpus_per_task is None or backend.num_gpus == 0 or not cluster.num_gpus():
            return
        actors = cluster.num_gpus() / (backend.num_gpus or 1)
        if actors * backend.num_cpus >= cluster.cpus_per_task:
            raise UserError(
                f"cluster.cpus_per_task: {cluster.cpus_per_task} leaves no CPU for loading pictures beside "
                f"{actors:g} actors of {backend.num_cpus:g}; give {int(actors * backend.num_cpus) + 1} or more"
            )

    def plan(self) -> str:
        """Return the batch script."""
        return self._script

    def submit(self, say: Say, warn: Say, *, wait: bool, apply: bool) -> int:
        """Hand the script to sbatch; with `wait` show the job's log until it ends, and return its exit code.

        Raises: UserError when Slurm refuses, or has a job for this OUTPUT already.
        """
        if apply:
            raise UserError("--apply: cluster=slurm has no use for it; leave it out")
        _program("sbatch")
        secrets(self.cluster.env_from)  # Slurm hands the whole environment over; what is lacking there is refused here
        active = [job for job in self._jobs() if job.is_active]
        if active:
            raise UserError(
                f"output: job {active[0].job_id} ({active[0].state}) already makes {self.output}; wait for it, or end "
                "it with --stop"
            )
        job_id = self._send()
        say(f"job:      {job_id} ({self.name})")
        say(f"log:      {self._log_of(job_id)}")
        if not wait:
            say("the same command with --status says how it stands, with --stop it ends in order")
            return 0
        try:
            return self._follow(job_id, say)
        except KeyboardInterrupt:
            say(f"job {job_id} goes on without you; the same command with --stop ends it")
            return INTERRUPTED

    def _send(self) -> str:
        """Write the script and hand it to sbatch; return the job's id."""
        if self.store is not None:
            self.store.check_ours()
            self.store.check_folder(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            Path(self.log).expanduser().parent.mkdir(parents=True, exist_ok=True)
            path = self.folder / "job.sh"
            path.write_text(self._script, encoding="utf-8")
        except OSError as error:
            raise UserError(f"output: {self.folder} can't be written: {error.strerror or error}") from None
        return _run("sbatch", "--parsable", str(path)).strip().partition(";")[0]

    def status(self, say: Say) -> int:
        """Say how the last job for this OUTPUT stands."""
        jobs = self._jobs() or list(self._accounted())
        if not jobs:
            say(f"Slurm knows no job for {self.output} (any more)")
            return 1
        job = max(jobs, key=lambda job: int(job.job_id))
        parts = [f"job {job.job_id} ({self.name}): {job.state}"]
        if job.waits_for:
            parts.append(f"waits for {job.waits_for}")
        elif job.is_active and job.state != "PENDING":
            parts.append(f"on {job.nodes} for {job.run_time}")
        elif not job.is_active and job.state != "COMPLETED":
            parts.append(f"exit code {job.exit_code}")
        if job.num_restarts:
            parts.append(f"requeued {job.num_restarts} times")
        say(", ".join(parts))
        log = Path(job.log or self._log_of(job.job_id))
        say(f"log: {log}")
        if not job.is_active and job.state != "COMPLETED" and (reason := _reason(log)):
            say(reason)
        return 0

    def stop(self, say: Say) -> int:
        """Let the job commit what it makes and end; a waiting one is cancelled."""
        active = [job for job in self._jobs() if job.is_active]
        for job in active:
            _run("scontrol", "update", f"JobId={job.job_id}", "Requeue=0")
            if job.state == "PENDING":
                _run("scancel", job.job_id)
                say(f"job {job.job_id}: cancelled while it waited")
            else:
                _run("scancel", "--signal=TERM", "--batch", job.job_id)
                say(f"job {job.job_id}: told to stop; what is being made is committed, --status says when it has ended")
        if not active:
            say(f"no job makes {self.output} now")
        return 0 if active else 1

    # --- what Slurm knows ---------------------------------------------------------------------------------------

    def _jobs(self) -> list[SlurmState]:
        """Return the jobs of this name that the controller knows: those not ended, or some minutes ago."""
        ids = _run("squeue", "-h", "-t", "all", "-u", getpass.getuser(), "-n", self.name, "-o", "%i").split()
        return [state for job_id in ids if (state := self._job(job_id)) is not None]

    def _job(self, job_id: str) -> SlurmState | None:
        try:
            text = _run("scontrol", "show", "job", "-o", job_id)
        except UserError as error:
            if "Invalid job id" in str(error):  # forgotten by the controller meanwhile
                return None
            raise
        found = dict(_FIELD.findall(text))
        return SlurmState(
            job_id,
            found.get("JobState", "UNKNOWN"),
            found.get("Reason", ""),
            found.get("NodeList", ""),
            found.get("RunTime", ""),
            int(found.get("Restarts", 0)),
            _exit_code(found.get("ExitCode", "0:0")),
            found.get("StdOut", ""),
        )

    def _accounted(self) -> Iterator[SlurmState]:
        """Yield what Slurm's accounting knows of ended jobs; nothing where the site keeps none."""
        fields = "JobIDRaw,State,Reason,NodeList,Elapsed,Restarts,ExitCode"
        try:
            text = _run("sacct", "-X", "-n", "-P", "-S", "now-90days", f"--name={self.name}", f"--format={fields}")
        except UserError:
            return
        for line in text.splitlines():
            job_id, state, reason, nodes, elapsed, restarts, code = line.split("|")
            if job_id.isdigit():
                number = int(restarts or 0)
                yield SlurmState(job_id, state.split()[0], reason, nodes, elapsed, number, _exit_code(code), "")

    def _log_of(self, job_id: str) -> str:
        return self.log.replace("%j", job_id)

    def _follow(self, job_id: str, say: Say) -> int:
        """Show the job's log as it grows until the job has ended; return its exit code."""
        shown, told, answered = 0, "", time.monotonic()
        while True:
            try:
                job = self._job(job_id)
                answered = time.monotonic()
            except UserError:  # a busy controller; the job isn't harmed
                if time.monotonic() - answered > _PATIENCE_S:
                    raise
                time.sleep(POLL_S)
                continue
            shown = _show(Path(self._log_of(job_id)), shown)
            if job is None:
                raise UserError(f"cluster: Slurm has forgotten job {job_id}; its log is {self._log_of(job_id)}")
            now = f"job {job_id}: {job.state}" + (f", waits for {job.waits_for}" if job.waits_for else "")
            if now != told:
                say(now)
                told = now
            if not job.is_active:
                break
            time.sleep(POLL_S)
        _show(Path(self._log_of(job_id)), shown)
        if job.state == "CANCELLED":
            return INTERRUPTED
        return 0 if job.state == "COMPLETED" else job.exit_code or 1


def _show(log: Path, shown: int) -> int:
    """Print what has come to the log, whole lines alone; return how much of it has been shown."""
    try:
        with log.open("rb") as file:
            file.seek(shown)
            new = file.read()
    except OSError:  # not there yet, or not on this machine
        return shown
    whole = new[: new.rfind(b"\n") + 1]
    sys.stdout.write(whole.decode("utf-8", "replace"))
    sys.stdout.flush()
    return shown + len(whole)


def _reason(log: Path) -> str:
    """Return why a job failed by its log: its last error in a sentence, else its last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LAST_BYTES))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    ours = [line for line in lines if line.startswith(("error: ", "stopped: ", "too many failed: ", "interrupted"))]
    return (ours or lines or [""])[-1]


def _exit_code(text: str) -> int:
    """Return CODE:SIGNAL as a shell has it."""
    code, _, number = text.partition(":")
    return int(code) or (128 + int(number) if int(number or 0) else 0)


def _program(name: str) -> str:
    """Return where one of Slurm's commands is."""
    path = shutil.which(name)
    if path is None:
        raise UserError(
            f"cluster=slurm: no {name} on PATH; run this where Slurm's commands are, or print the script with --dry-run"
        )
    return path


def _run(program: str, *arguments: str) -> str:
    """Return what one of Slurm's commands prints.

    Raises: UserError where it isn't there, doesn't answer or refuses.
    """
    try:
        done = subprocess.run(
            [_program(program), *arguments], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"cluster=slurm: {program} gave no answer within {_ANSWER_S:g} s") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = lines[-1] if lines else f"it ended with {done.returncode}"
        raise UserError(f"cluster=slurm: {re.sub(rf'^{program}: (error: )?', f'{program}: ', said)}")
    return done.stdout
