"""One round: a new output folder, the same command until its job is done, killed as often as the plan says."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from crash import events, oracle, processes
from crash.kills import DRIVER, Chooser, Planned, State
from crash.processes import RAYLET
from crash.settings import Kill
from crash.workplace import Run, Workplace, events_of
from svd_batch.attempts import MAX_ATTEMPTS
from svd_batch.records import CELL_FIELDS

LIMIT_S = {"serial": 180.0, "ray": 300.0}
"""A run that takes longer hangs."""
PATIENCE_S = 90.0
"""How long Ray's processes may outlive a finished run; after a raylet's death its agents call a gone head for 60 s."""
MOST_AFTER_LAST = 3
"""Kills of runs that have nothing to make any more, before a round may finish."""
POLL_S = 0.02
EVENT_S = 30.0


@dataclass(frozen=True)
class Expected:
    """What an uninterrupted run made."""

    sha256: dict[str, str]
    ids: dict[str, str]
    """video_id by `events.cell_key`."""
    seconds: float


@dataclass(frozen=True)
class Killed:
    """One kill that came."""

    backend: str
    name: str
    time: float
    is_driver: bool
    is_at_step: bool
    lost_s: float = 0.0
    num_lost: int = 0
    """Videos that were begun before and are begun again after."""
    resume_s: float | None = None
    """From the next start, or from the kill where the run went on by itself, to the first new video.

    None where the next kill came before, or nothing was left to make.
    """


@dataclass
class Outcome:
    """What a round showed."""

    killed: list[Killed] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    num_set_aside: int = 0
    """Videos that as many kills hit in the making as the product takes; `retry_failed=true` has made them."""


def expected(place: Workplace, backend: str) -> tuple[Expected, list[str]]:
    """Return what a run makes that nobody disturbs, and what is wrong with it."""
    output = place.root / f"whole-{backend}"
    run = place.start(output, backend)
    code = run.wait(LIMIT_S[backend])
    seconds = time.time() - run.started
    if code != 0:
        return Expected({}, {}, seconds), [f"an undisturbed {backend} run ends with {code}: {last_line(run)}"]
    rows = pq.read_table(output / "metadata.parquet").to_pylist()
    sha256 = {row["video_id"]: row["video_sha256"] for row in rows}
    ids = {events.cell_key(row["seed"], {n: row[n] for n in CELL_FIELDS}): row["video_id"] for row in rows}
    wrong = [*oracle.when_finished(output, sha256), *processes.left_over(place.root, place.temporary, PATIENCE_S)]
    return Expected(sha256, ids, seconds), wrong


def last_line(run: Run) -> str:
    """Return the last line that a run printed."""
    lines = [line for line in run.printed().splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was printed"


def _first_new(begins: list[events.Event], commits: list[events.Event], start: float, until: float) -> float | None:
    """Return the seconds to the first video that was begun and committed between two moments; None for none."""
    begun = min((event.time for event in begins if start < event.time < until), default=None)
    if begun is None:
        return None
    made = min((event.time for event in commits if begun < event.time < until), default=None)
    return None if made is None else made - start


class Round:
    """Kills the runs of one folder until the plan's number is reached or the job is done."""

    def __init__(self, place: Workplace, name: str, backend: str, wanted: Expected, chooser: Chooser) -> None:
        self.place, self.backend, self.wanted, self.chooser = place, backend, wanted, chooser
        self.output = place.root / name
        self.outcome = Outcome()
        self._snapshots: list[oracle.Snapshot] = []
        self._starts: list[float] = []

    def play(self, most: int, say: Callable[[], None]) -> Outcome:
        """Return what came of it, after at most so many kills; `say` is called after each."""
        num_idle = 0
        while True:
            state = self._state()
            num_idle += state.num_missing == 0
            planned = None
            if len(self.outcome.killed) < most and num_idle <= MOST_AFTER_LAST:
                planned = self.chooser.next(state)
            code = self._once(planned, len(self._starts))
            say()
            if code == 0 or self.outcome.violations:
                break
        if not self.outcome.violations and (videos := self._set_aside()):
            self.outcome.num_set_aside = len(videos)
            self._once(None, len(self._starts), ["retry_failed=true"])
        if not self.outcome.violations:
            self._judge()
        self._measure()
        if not self.outcome.violations:
            shutil.rmtree(self.output)
        return self.outcome

    def _state(self) -> State:
        if not self.output.exists():
            return State(len(self.wanted.sha256), 0, 0)
        now = oracle.take_snapshot(self.output, 0.0)
        strays = [p for folder in ("tmp", "pending") for p in (self.output / ".svd_batch" / folder).glob("*")]
        missing = len(self.wanted.sha256) - len(now.committed) - len(now.adoptable)
        return State(missing, len(now.adoptable), len(strays))

    def _set_aside(self) -> list[str]:
        """Return the videos that are failures since kills hit them in the making as often as the product bears."""
        begun = [(self.wanted.ids.get(e.what, e.what), e.time) for e in self._events("begin")]
        found = []
        for row in pq.read_table(self.output / "failures.parquet").to_pylist():
            times = [time for video_id, time in begun if video_id == row["video_id"]]
            hit = {max((t for t in times if t < killed.time), default=None) for killed in self.outcome.killed}
            if row["error_type"] == "ProcessDied" and len(hit - {None}) >= MAX_ATTEMPTS:
                found.append(str(row["video_id"]))
        return found

    def _once(self, planned: Planned | None, number: int, more: Sequence[str] = ()) -> int | None:
        """Start the command, kill as planned, wait for the end and look at what is there; return the exit code."""
        flag = self.place.root / f"{self.output.name}-{number}.flag"
        kill = Kill(planned.step, planned.count, str(flag)) if planned and planned.step else None
        run = self.place.start(self.output, self.backend, kill=kill, more=more)
        self._starts.append(run.started)
        killed = None
        if planned is not None:
            killed = self._external(run, planned) if planned.target else self._at_step(run, planned, flag)
        code = run.wait(LIMIT_S[self.backend])
        if killed is not None:
            self.chooser.counts[killed.name] += 1
            self.outcome.killed.append(killed)
        where = f"{self.output.name}, run {number + 1} ({killed.name if killed else 'no kill'})"
        if code is None:
            self.outcome.violations.append(f"{where}: still running after {LIMIT_S[self.backend]:g} s")
            processes.end_all(self.place.root)
        elif code != 0 and (killed is None or not killed.is_driver):
            self._check_words(run, code, where, killed)
        self._look(where)
        return code

    def _check_words(self, run: Run, code: int, where: str, killed: Killed | None) -> None:
        """A run that wasn't killed itself tells in a sentence why it stops.

        Where the raylet dies Ray may end the driver from within, also at once and before `ray_watch` has looked.
        """
        text = run.printed()
        if killed is None:
            self.outcome.violations.append(f"{where}: ends with {code}: {last_line(run)}")
        elif "Traceback" not in text and killed.name.startswith(RAYLET):
            return
        elif "Traceback" in text or not any(line.startswith("error: ") for line in text.splitlines()):
            self.outcome.violations.append(f"{where}: ends with {code} and no sentence of its own: {last_line(run)}")

    def _look(self, where: str) -> None:
        if self.output.exists():
            self.outcome.violations += [f"{where}: {text}" for text in oracle.at_any_moment(self.output)]
            self._snapshots.append(oracle.take_snapshot(self.output, time.time()))

    def _at_step(self, run: Run, planned: Planned, flag: Path) -> Killed | None:
        """Wait until a process has killed itself, or the run has ended without."""
        deadline = time.monotonic() + LIMIT_S[self.backend]
        while not flag.exists():
            if run.code() is not None or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        if not flag.exists():
            return None
        num_before = sum(killed.is_at_step for killed in self.outcome.killed)
        while len(made := list(self._events("kill"))) <= num_before:  # the flag is made first
            if time.time() - flag.stat().st_mtime > EVENT_S:
                raise RuntimeError(f"{planned.name}: a process has made {flag.name} and noted no kill")
            time.sleep(POLL_S)
        return Killed(self.backend, planned.name, made[-1].time, made[-1].pid == run.process.pid, True)

    def _external(self, run: Run, planned: Planned) -> Killed | None:
        """Kill a target at a random moment; None where the run ends before."""
        deadline = time.monotonic() + planned.moment * self.wanted.seconds
        target: psutil.Process | None = None
        if planned.target == DRIVER:
            target = psutil.Process(run.process.pid)
        else:
            while target is None and run.code() is None:
                target = next(iter(processes.find(self.place.root, str(planned.target))), None)
                time.sleep(POLL_S)
            deadline = time.monotonic() + planned.moment * self.wanted.seconds / 2
        while run.code() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if target is None or run.code() is not None:
            return None
        try:
            target.kill()
        except psutil.Error:
            return None
        return Killed(self.backend, planned.name, time.time(), planned.target == DRIVER, False)

    def _judge(self) -> None:
        """Ask the oracle about the finished folder."""
        final = oracle.take_snapshot(self.output, 0.0).committed
        begun: dict[str, list[float]] = {}
        for event in self._events("begin"):
            begun.setdefault(self.wanted.ids.get(event.what, event.what), []).append(event.time)
        found = [
            *oracle.when_finished(self.output, self.wanted.sha256),
            *oracle.never_twice(self._snapshots, final, begun),
            *processes.left_over(self.place.root, self.place.temporary, PATIENCE_S),
        ]
        self.outcome.violations += [f"{self.output.name}: {text}" for text in found]

    def _events(self, kind: str) -> Iterator[events.Event]:
        return (event for event in events.read(events_of(self.output)) if event.kind == kind)

    def _measure(self) -> None:
        """Fill in what each kill cost."""
        begins, commits = list(self._events("begin")), list(self._events("commit"))
        for i, killed in enumerate(self.outcome.killed):
            at = killed.time
            again = {event.what for event in begins if event.time > at}
            done = {event.what for event in commits if event.time <= at}
            last = {e.what: e for e in begins if e.time <= at}
            lost = [e for key, e in last.items() if key in again and self.wanted.ids.get(key) not in done]
            earlier = [k.time for k in self.outcome.killed[:i]]  # what they cost is counted there
            lost = [event for event in lost if not earlier or event.time > max(earlier)]
            first: dict[int, float] = {}
            for event in lost:
                first[event.pid] = min(event.time, first.get(event.pid, event.time))
            start = min((s for s in self._starts if s > at), default=None) if killed.is_driver else at
            until = next((k.time for k in self.outcome.killed[i + 1 :]), math.inf)
            resume_s = None if start is None else _first_new(begins, commits, start, until)
            self.outcome.killed[i] = dataclasses.replace(
                killed, lost_s=sum(at - t for t in first.values()), num_lost=len(lost), resume_s=resume_s
            )
