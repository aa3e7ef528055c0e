"""Both sides in turn: some pictures' whole grids by the one, then by the other, each in a process of its own.

Two processes, since much of what the engine does counts for a whole process: how memory is handed out, OpenMP's pools,
deterministic algorithms. Loads no torch itself.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_batch.backends import LoadSettings
from svd_batch.errors import UserError
from svd_batch.images import one_line
from svd_batch.records import WorkUnit
from svd_batch.settings import GenerateSettings

if TYPE_CHECKING:
    from svd_batch.bench.sides import Start, Turn

NAMES = {"stock": "stock diffusers", "ours": "the sweep engine"}


@dataclass(frozen=True)
class Pair:
    """Both sides' turns of one round, all pictures each."""

    stock: Turn
    ours: Turn
    differences: tuple[float, ...]
    """The largest of each video's pixels on [0, 1]."""


@dataclass(frozen=True)
class Loaded:
    """What comes before a side's first timed turn."""

    start: Start
    warm_up: Turn
    """A first turn, which measures, tunes or compiles what later ones have the use of."""


@dataclass(frozen=True)
class Comparison:
    """All that was measured of two loaded models."""

    stock: Loaded
    ours: Loaded
    pairs: tuple[Pair, ...]


def compare(
    settings: GenerateSettings,
    load: LoadSettings,
    units: Sequence[WorkUnit],
    rounds: int,
    count: Callable[[], None],
) -> Comparison:
    """Return what both sides took for all units, `rounds` times after a warm-up with the first unit.

    `count` is called for each video of either side, warm-up included. Stock gets what it has of the memory settings
    that hold for ours.

    Raises: UserError when a side can't load or a video can't be made.
    """

    def turn(side: Worker, units: Sequence[WorkUnit]) -> Turn:
        done: Turn = side.ask(units)
        for _ in done.records:
            count()
        return done

    def pair() -> Pair:
        theirs, mine = turn(stock, units), turn(ours, units)
        pixels = zip(theirs.pixels, mine.pixels, strict=True)
        differences = tuple(float(np.abs(a - b).max()) for a, b in pixels)
        return Pair(replace(theirs, pixels=()), replace(mine, pixels=()), differences)

    with working("ours", settings, load) as ours, working("stock", _of_stock(settings, ours.start), load) as stock:
        warm = {side.name: replace(turn(side, units[:1]), pixels=()) for side in (stock, ours)}
        pairs = tuple(pair() for _ in range(rounds))
    return Comparison(Loaded(stock.start, warm["stock"]), Loaded(ours.start, warm["ours"]), pairs)


def _of_stock(settings: GenerateSettings, ours: Start) -> GenerateSettings:
    return replace(settings, memory=ours.memory)


class Worker:
    """A side in a process of its own, loaded.

    Raises: UserError for whatever goes wrong there, also when the process dies.
    """

    def __init__(self, name: str, settings: GenerateSettings, load: LoadSettings) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        own = replace(settings, output=str(Path(settings.output) / name))
        self.process = context.Process(target=_serve, args=(there, name, own, load))
        self.process.start()
        there.close()
        try:
            self.start: Start = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, units: Sequence[WorkUnit]) -> Any:
        """Return the side's turn with some units."""
        self._here.send(units)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._here.recv()
        except (EOFError, OSError):
            self.process.join()
            raise UserError(
                f"bench: {NAMES[self.name]}: its process died, exit code {self.process.exitcode} (-9: out of memory)"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, also in the middle of a turn."""
        self.process.terminate()
        self.process.join()
        self._here.close()


@contextmanager
def working(name: str, settings: GenerateSettings, load: LoadSettings) -> Iterator[Worker]:
    """Yield a loaded side, and end it at the end."""
    worker = Worker(name, settings, load)
    try:
        yield worker
    finally:
        worker.close()


def _serve(there: Connection, name: str, settings: GenerateSettings, load: LoadSettings) -> None:
    """Load one side, then answer units with a turn; the life of a side's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the one that asks ends this one
    try:
        from svd_batch.bench.sides import StockLoop, Sweep

        side: StockLoop | Sweep = (StockLoop if name == "stock" else Sweep)(settings, load)
        there.send(side.start)
        while True:
            there.send(side.turn(there.recv()))
    except EOFError:  # nobody asks any more
        pass
    except Exception as error:
        own = isinstance(error, UserError)
        there.send(UserError(f"bench: {NAMES[name]}: {'' if own else f'{type(error).__name__}: '}{one_line(error)}"))
