"""Storage faults: runs whose n-th operation on the output folder fails, then one that may finish."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass

from crash import events, oracle, processes
from crash.rounds import LIMIT_S, PATIENCE_S, Expected, last_line
from crash.settings import Fault
from crash.workplace import Run, Workplace, events_of

MOST_IN_A_FOLDER = 4
ERRORS = ("ENOSPC", "EIO", "EACCES")


@dataclass(frozen=True)
class Faulted:
    """One run with a fault, and how it answered."""

    backend: str
    error: str
    first: int
    stays: bool
    where: str
    answer: str


def play(
    place: Workplace, name: str, backend: str, wanted: Expected, faults: list[Planned], num_operations: int
) -> tuple[list[Faulted], list[str]]:
    """Run into faults in one folder until its job is done; return how each was answered and what is wrong.

    Those that came are taken from `faults`, four a folder at most.
    """
    output = place.root / name
    faulted: list[Faulted] = []
    violations: list[str] = []
    while faults and len(faulted) < MOST_IN_A_FOLDER:
        num_done = len(oracle.take_snapshot(output, 0.0).committed) if output.exists() else 0
        share = 1 - 0.8 * num_done / len(wanted.sha256)  # what a run does that has nothing to make is a fifth
        planned = faults[0]
        first = 1 + int(planned.fraction * share * num_operations)
        flag = place.root / f"{name}-{len(faulted)}.flag"
        fault = Fault(planned.error, first, planned.stays, str(flag))
        run = place.start(output, backend, fault=fault, more=["retry_failed=true"])
        code = run.wait(LIMIT_S[backend])
        if not flag.exists() and code == 0:
            break  # it did less than so many operations
        faults.pop(0)
        noted = [e.what for e in events.read(events_of(output)) if e.kind == "fault"]
        where = f"{name}, {noted[-1] if noted else planned.error}{' and on' if planned.stays else ''}"
        answer = _answer(run, code)
        faulted.append(Faulted(backend, planned.error, first, planned.stays, noted[-1] if noted else "", answer))
        if answer.startswith("bad"):
            violations.append(f"{where}: {answer}")
        if code is None:
            processes.end_all(place.root)
        if output.exists():
            violations += [f"{where}: {text}" for text in oracle.at_any_moment(output)]
        if code == 0:
            break
    before = oracle.take_snapshot(output, time.time())
    run = place.start(output, backend, more=["retry_failed=true"])
    code = run.wait(LIMIT_S[backend])
    if code != 0:
        return faulted, [*violations, f"{name}: without faults it ends with {code}: {last_line(run)}"]
    begun: dict[str, list[float]] = {}
    for event in events.read(events_of(output)):
        if event.kind == "begin":
            begun.setdefault(wanted.ids.get(event.what, event.what), []).append(event.time)
    final = dict(oracle.take_snapshot(output, 0.0).committed)
    found = [
        *oracle.when_finished(output, wanted.sha256),
        *oracle.never_twice([before], final, begun),
        *processes.left_over(place.root, place.temporary, PATIENCE_S),
    ]
    violations += [f"{name}: {text}" for text in found]
    if not violations:
        shutil.rmtree(output)
    return faulted, violations


def _answer(run: Run, code: int | None) -> str:
    """Return how a run with a fault ended; `bad` comes first where it may not end so."""
    text = run.printed()
    sentences = [line for line in text.splitlines() if line.startswith("error: ")]
    if code is None:
        return "bad: it hangs"
    if "Traceback" in text:
        return f"bad: a traceback, exit code {code}: {last_line(run)}"
    if code == 0:
        return "went on, failures as rows" if "failures: " in text else "went on without"
    if code == 3:
        return "too many failed, as rows"
    return f"stopped with a sentence, exit code {code}" if len(sentences) == 1 else f"bad: {len(sentences)} sentences"


@dataclass(frozen=True)
class Planned:
    """A fault that is still to come."""

    error: str
    fraction: float
    """Where in a run, by the number of its operations."""
    stays: bool


def draw(seed: int, number: int) -> list[Planned]:
    """Return faults in a random order: every error, passing and lasting, spread over a run."""
    source = random.Random(f"faults {seed}")
    each = [Planned(ERRORS[i % 3], (i + source.random()) / number, bool(i // 3 % 2)) for i in range(number)]
    source.shuffle(each)
    return each
