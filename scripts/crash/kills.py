"""Which kill comes next: each kind as often as the others, among those that can come in the folder's present state."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from crash.processes import ACTOR, RAYLET
from crash.steps import ADOPT, COMMIT, START, STEPS, TABLES, TIDY

DRIVER = "driver"
RANDOM = "at a random moment"
SERIAL_WEIGHT, RAY_WEIGHT = 8, 4
"""How many times as often as a named step a target is killed at a random moment."""


@dataclass(frozen=True)
class State:
    """What a folder holds before a run."""

    num_missing: int
    num_adoptable: int
    num_strays: int
    """Temporary and pending files."""


@dataclass(frozen=True)
class Planned:
    """One kill: at a step in the process that comes to it, or of a target at a random moment."""

    name: str
    step: str | None = None
    count: int = 1
    target: str | None = None
    moment: float = 0.0
    """Fraction of a run's usual length, for a target."""


class Chooser:
    """Chooses kills, and counts those that came."""

    def __init__(self, backend: str, seed: int, num_frames: int) -> None:
        self.counts: Counter[str] = Counter()
        self._random = random.Random(f"{backend} {seed}")
        self._targets = [DRIVER] if backend == "serial" else [DRIVER, ACTOR, RAYLET]
        self._weight = SERIAL_WEIGHT if backend == "serial" else RAY_WEIGHT
        self._num_frames = num_frames

    def next(self, state: State) -> Planned:
        """Return a kill that can come."""
        return min(self._possible(state), key=lambda ranked: ranked[0])[1]

    def _rank(self, name: str, weight: float) -> float:
        """Return a number that is the lower the rarer a kill was so far; chance decides between equals."""
        return (self.counts[name] + self._random.random()) / weight

    def _possible(self, state: State) -> Iterator[tuple[float, Planned]]:
        has = {
            START: True,
            TABLES: True,
            COMMIT: state.num_missing > 0,
            ADOPT: state.num_adoptable > 0,
            TIDY: state.num_strays > 0,
        }
        for step in STEPS:
            if has[step.group]:
                most = 1 if step.group != COMMIT else min(3, state.num_missing)
                count = self._random.randint(1, most) * (self._num_frames if step.operation == "frame" else 1)
                yield self._rank(step.name, 1), Planned(step.name, step=step.name, count=count)
        for target in self._targets:
            if state.num_missing or target == DRIVER:
                name = f"{target} {RANDOM}"
                yield self._rank(name, self._weight), Planned(name, target=target, moment=self._random.random())
