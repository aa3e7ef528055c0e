"""The figures of a crash test, as text and as JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crash.faults import Faulted
from crash.rounds import Killed


@dataclass(frozen=True)
class Report:
    """All that a test showed."""

    settings: dict[str, Any]
    killed: Sequence[Killed]
    faulted: Sequence[Faulted]
    num_rounds: int
    num_set_aside: int
    seconds: float
    violations: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into the JSON file."""
        return {
            "settings": self.settings,
            "num_kills": len(self.killed),
            "num_faults": len(self.faulted),
            "num_rounds": self.num_rounds,
            "num_set_aside": self.num_set_aside,
            "seconds": self.seconds,
            "figures": {backend: figures(self.killed, backend) for backend in _backends(self.killed)},
            "violations": list(self.violations),
            "kills": [asdict(killed) for killed in self.killed],
            "faults": [asdict(faulted) for faulted in self.faulted],
        }

    def lines(self) -> Iterator[str]:
        """Yield what a person reads."""
        for backend in _backends(self.killed):
            found = figures(self.killed, backend)
            yield f"{backend}: {found['kills']} kills; work lost per kill {_both(found['lost_s'])}, "
            yield f"  at most {found['most_videos_lost']} videos; first new video after {_both(found['resume_s'])}"
        for name, count in sorted(Counter(f"{k.backend}: {k.name}" for k in self.killed).items()):
            yield f"  {count:3} × {name}"
        if self.faulted:
            yield f"storage faults: {len(self.faulted)}"
        for name, count in sorted(Counter(f"{f.error}: {f.answer}" for f in self.faulted).items()):
            yield f"  {count:3} × {name}"
        yield f"set aside by three kills in the making, and made by retry_failed=true: {self.num_set_aside}"
        yield f"violations: {len(self.violations)} in {self.num_rounds} jobs, {self.seconds:.0f} s"
        yield from (f"  {text}" for text in self.violations)


def figures(killed: Sequence[Killed], backend: str) -> dict[str, Any]:
    """Return medians and worst cases of one backend's kills."""
    mine = [k for k in killed if k.backend == backend]
    return {
        "kills": len(mine),
        "lost_s": _median_and_worst([k.lost_s for k in mine]),
        "most_videos_lost": max((k.num_lost for k in mine), default=0),
        "resume_s": _median_and_worst([k.resume_s for k in mine if k.resume_s is not None]),
    }


def _backends(killed: Sequence[Killed]) -> list[str]:
    return sorted({k.backend for k in killed})


def _median_and_worst(values: Sequence[float]) -> dict[str, float] | None:
    return {"median": statistics.median(values), "worst": max(values)} if values else None


def _both(values: dict[str, float] | None) -> str:
    return f"{values['median']:.2f} s (median), {values['worst']:.2f} s (worst)" if values else "-"
