"""What the test tells the processes that it starts. Standard library alone: every Python process of a run reads it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

VARIABLE = "SVD_BATCH_CRASH_LAYER"


@dataclass(frozen=True)
class Kill:
    """A process kills itself when it gets to a named step for the `count`-th time."""

    step: str
    count: int
    flag: str
    """File that is made at the kill, so that it happens once in all processes of a run."""


@dataclass(frozen=True)
class Fault:
    """The `first`-th operation on the output folder fails, and the later ones too where `stays`."""

    error: str
    """Name of an errno."""
    first: int
    stays: bool
    flag: str


@dataclass(frozen=True)
class Settings:
    """One run's layer."""

    output: str
    """Absolute path without links; operations elsewhere are left alone."""
    events: str
    """File that gets a line for each begun cell and each commit."""
    millisecond_engine: bool
    engine_ms: float = 0.0
    """How long that engine takes for a video."""
    kill: Kill | None = None
    fault: Fault | None = None

    def to_text(self) -> str:
        """Return what goes into the environment."""
        return json.dumps(dataclasses.asdict(self))


def from_text(text: str) -> Settings:
    """Return what `Settings.to_text` wrote."""
    row = json.loads(text)
    kill, fault = row.pop("kill"), row.pop("fault")
    return Settings(**row, kill=Kill(**kill) if kill else None, fault=Fault(**fault) if fault else None)
