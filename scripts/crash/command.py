"""The command `scripts/crashtest`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from crash import events, faults
from crash.faults import Faulted
from crash.figures import Report
from crash.kills import Chooser
from crash.rounds import Expected, Killed, Round, expected
from crash.workplace import Options, Workplace, events_of
from svd_batch.console import duration

NUM_FRAMES = {"millisecond": 4, "tiny": 3}
MOST_BARREN = 10
"""Rounds in a row without a kill or fault, after which it gives up."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="crashtest", description=DESCRIPTION)
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="how many kills (default 30)")
    parser.add_argument("--faults", type=int, default=0, metavar="N", help="how many storage faults (default 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which kills, and when (default 0)")
    parser.add_argument("--backend", choices=("ray", "serial", "both"), default="both", help="default both")
    parser.add_argument(
        "--ray-share", type=float, default=0.125, metavar="X", help="both: how much of it is on Ray (default 0.125)"
    )
    parser.add_argument("--engine", choices=("millisecond", "tiny"), default="millisecond", help=ENGINES)
    parser.add_argument("--engine-ms", type=float, default=5.0, metavar="MS", help="millisecond: time for a video (5)")
    parser.add_argument("--pictures", type=int, default=3, help="of the job (default 3)")
    parser.add_argument("--cells", type=int, default=4, help="videos of each picture (default 4)")
    parser.add_argument("--actors", type=int, default=1, help="on Ray (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    return parser.parse_args(arguments)


DESCRIPTION = (
    "Start real runs, kill their processes with SIGKILL at every named step of a commit and at random moments, give "
    "the same command again until the job is done, and compare what is there with an uninterrupted run. Needs the "
    "dev extras, and Linux. Exit code 0: no violation; 1: some, which are listed."
)
ENGINES = "millisecond (default): frames without a model and without torch; tiny: a random checkpoint"


class Test:
    """Plays rounds until enough kills and faults have come."""

    def __init__(self, place: Workplace, arguments: argparse.Namespace) -> None:
        self.place, self.arguments = place, arguments
        self.killed: list[Killed] = []
        self.faulted: list[Faulted] = []
        self.violations: list[str] = []
        self.num_rounds = 0
        self.num_set_aside = 0
        self._start = time.monotonic()

    def play(self) -> Report:
        """Play everything and return what it showed."""
        try:
            for backend, num_kills, num_faults in self._shares():
                if num_kills + num_faults:
                    self._play(backend, num_kills, num_faults)
        except KeyboardInterrupt:
            self.violations.append("interrupted: these are the jobs that were done by then")
        else:
            came, asked = len(self.killed) + len(self.faulted), self.arguments.kills + self.arguments.faults
            if came < asked and not self.violations:
                self.violations.append(f"{came} of {asked} kills and faults came, the others never got to their steps")
        settings = {k: v for k, v in vars(self.arguments).items() if k != "json"}
        seconds = time.monotonic() - self._start
        return Report(
            settings, self.killed, self.faulted, self.num_rounds, self.num_set_aside, seconds, self.violations
        )

    def _play(self, backend: str, num_kills: int, num_faults: int) -> None:
        wanted, wrong = expected(self.place, backend)
        self.num_rounds += 1
        self.violations += wrong
        if wanted.sha256:
            self._kill(backend, wanted, num_kills)
            self._fault(backend, wanted, num_faults)

    def _shares(self) -> list[tuple[str, int, int]]:
        a = self.arguments
        if a.backend != "both":
            return [(a.backend, a.kills, a.faults)]
        ray_kills, ray_faults = (round(n * a.ray_share + 0.49) for n in (a.kills, a.faults))
        return [("serial", a.kills - ray_kills, a.faults - ray_faults), ("ray", ray_kills, ray_faults)]

    def _kill(self, backend: str, wanted: Expected, number: int) -> None:
        chooser = Chooser(backend, self.arguments.seed, NUM_FRAMES[self.arguments.engine])
        num_before, num_barren = len(self.killed), 0
        while (num_left := number - (len(self.killed) - num_before)) > 0 and num_barren < MOST_BARREN:
            self.num_rounds += 1
            outcome = Round(self.place, f"{backend}-{self.num_rounds}", backend, wanted, chooser)
            found = outcome.play(num_left, lambda o=outcome: self._say(len(o.outcome.killed)))  # type: ignore[misc]
            self.killed += found.killed
            self.violations += found.violations
            self.num_set_aside += found.num_set_aside
            num_barren = 0 if found.killed else num_barren + 1

    def _fault(self, backend: str, wanted: Expected, number: int) -> None:
        done = events.read(events_of(self.place.root / f"whole-{backend}"))
        num_operations = max((int(e.what) for e in done if e.kind == "operations"), default=1)
        planned, num_barren = faults.draw(self.arguments.seed, number), 0
        while planned and num_barren < MOST_BARREN:
            self.num_rounds += 1
            name, num_before = f"{backend}-{self.num_rounds}", len(planned)
            faulted, wrong = faults.play(self.place, name, backend, wanted, planned, num_operations)
            num_barren = num_barren + 1 if len(planned) == num_before else 0
            if num_barren:
                planned.append(planned.pop(0))
            self.faulted += faulted
            self.violations += wrong
            self._say(0)

    def _say(self, num_more: int) -> None:
        """Print how far it is, in place of the last such line on a terminal."""
        a = self.arguments
        done, total = len(self.killed) + num_more + len(self.faulted), a.kills + a.faults
        seconds = time.monotonic() - self._start
        left = duration(seconds / done * (total - done)) if done else "?"
        line = f"{done}/{total} kills and faults, {len(self.violations)} violations, {left} left"
        end = "\r" if sys.stderr.isatty() else "\n"
        print(line, file=sys.stderr, end=end, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test and return the exit code."""
    parsed = parse(arguments)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what runs in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    options = Options(parsed.engine, parsed.engine_ms, parsed.pictures, parsed.cells, parsed.actors)
    with Workplace(options) as place:
        report = Test(place, parsed).play()
    print("\n".join(report.lines()))
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(report.as_dict(), indent=1, default=str), encoding="utf-8")
    return 1 if report.violations else 0
