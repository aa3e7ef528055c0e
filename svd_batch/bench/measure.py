"""Both sides in one process, in turn: a picture's whole grid by the one, then by the other.

Everything that computes runs in the one thread of `Generate`: a second one would have an OpenMP pool of its own, which
slows both down. The main thread writes stock's files, as a plain loop would, between its calls.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from svd_batch import checkpoint
from svd_batch.backends import LoadSettings
from svd_batch.bench.stock import Stock
from svd_batch.engine.machine import peak_memory_bytes
from svd_batch.engine.pipeline import EngineInfo, Generated
from svd_batch.errors import UserError
from svd_batch.images import one_line
from svd_batch.records import FailureRecord, PlannedVideo, VideoRecord, WorkUnit
from svd_batch.stages import Committer, Generate, GenerateSettings, LoadedUnit, Result, load_image
from svd_batch.store import Store

WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Turn:
    """One side's grid of one picture, from the picture's file to the last committed video."""

    wall_s: float
    records: tuple[VideoRecord, ...]


@dataclass(frozen=True)
class Pair:
    """Both sides' turns with one picture."""

    round: int
    image_id: str
    stock: Turn
    ours: Turn
    differences: tuple[float, ...]
    """The largest of each video's pixels on [0, 1]."""


@dataclass(frozen=True)
class Start:
    """What comes before a side's first timed turn."""

    load_s: float
    resident_bytes: int
    """GPU memory that the loaded model holds while the other side works; 0 on a CPU."""
    warm_up_s: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """All that was measured of two loaded models."""

    info: EngineInfo
    stock: Start
    ours: Start
    pairs: tuple[Pair, ...]
    on_gpu: bool
    process_peak_memory_bytes: int
    """Of the whole process, which holds both models."""


def compare(
    settings: GenerateSettings,
    load: LoadSettings,
    units: Sequence[WorkUnit],
    rounds: int,
    count: Callable[[], None],
) -> Comparison:
    """Return what both sides took for every unit, `rounds` times; `count` is called after each video of either.

    Raises: UserError when a video can't be made.
    """
    sides = _Sides(settings, load)
    try:
        warm = warm_up_unit(units[0])
        stock_start = replace(sides.stock_start, warm_up_s=sides.stock_turn(warm).wall_s)
        ours_start = replace(sides.ours_start, warm_up_s=sides.our_turn(warm).wall_s)
        sides.count = count
        pairs = [sides.pair(number, unit) for number in range(rounds) for unit in units]
        info, on_gpu = sides.ours.info, sides.stock.device.type == "cuda"
    finally:
        sides.stage.close()
        del sides
        gc.collect()
        torch.cuda.empty_cache()  # does nothing without a GPU
    peak = peak_memory_bytes(torch.device("cpu"))
    return Comparison(info, stock_start, ours_start, tuple(pairs), on_gpu, peak)


def warm_up_unit(unit: WorkUnit) -> WorkUnit:
    """Return the unit with few steps a video: what is compiled or tuned for its shapes is then ready."""
    few = (replace(v.cell, num_inference_steps=min(WARM_UP_STEPS, v.cell.num_inference_steps)) for v in unit.videos)
    distinct = dict.fromkeys((cell, v.seed) for cell, v in zip(few, unit.videos, strict=True))
    videos = (PlannedVideo(f"{number:08x}", cell, seed, 0) for number, (cell, seed) in enumerate(distinct))
    return WorkUnit(unit.image, tuple(videos))


class _Keeping(Committer):
    """Commits as a job does, and keeps the pixels for the comparison."""

    def __init__(self, settings: GenerateSettings, info: EngineInfo) -> None:
        super().__init__(settings, info)
        self.pixels: dict[str, NDArray[np.float32]] = {}

    def write(self, loaded: LoadedUnit, planned: PlannedVideo, generated: Generated) -> Result:
        assert generated.pixels is not None
        self.pixels[planned.video_id] = generated.pixels
        return super().write(loaded, planned, generated)

    def take(self, records: Sequence[VideoRecord]) -> list[NDArray[np.float32]]:
        """Return the pixels of some videos and forget all, so that the same may be made again."""
        for record in records:
            self.store.forget(record.video_id)
        pixels, self.pixels = self.pixels, {}
        return [pixels[record.video_id] for record in records]


class _Sides:
    """Both models, loaded, with a folder each for their videos."""

    def __init__(self, settings: GenerateSettings, load: LoadSettings) -> None:
        """Load ours first: what libraries import or cache at their first load is then no advantage of ours."""
        self.load = load
        self.count: Callable[[], None] = lambda: None
        folders = {name: replace(settings, output=str(Path(settings.output) / name)) for name in ("ours", "stock")}
        for each in folders.values():
            Store(Path(each.output)).create()
        start, before = time.perf_counter(), _allocated_bytes()
        self.stage = Generate(folders["ours"])
        self.ours_start = Start(time.perf_counter() - start, _allocated_bytes() - before)
        self.stage.engine.keep_pixels = True
        self.stage.committer = self.ours = _Keeping(folders["ours"], self.stage.committer.info)
        start, before = time.perf_counter(), _allocated_bytes()
        folder = checkpoint.fetch(settings.model)
        self.stock = self.stage.compute(lambda: Stock(folder, settings.model, settings.memory))
        self.stock_start = Start(time.perf_counter() - start, _allocated_bytes() - before)
        self.plain = _Keeping(folders["stock"], self.ours.info)

    def pair(self, number: int, unit: WorkUnit) -> Pair:
        """Return both turns with one picture, stock's first, and how far apart their pixels are."""
        stock = self.stock_turn(unit)
        theirs = self.plain.take(stock.records)
        ours = self.our_turn(unit)
        pixels = zip(theirs, self.ours.take(ours.records), strict=True)
        return Pair(number, unit.image.image_id, stock, ours, tuple(float(np.abs(a - b).max()) for a, b in pixels))

    def stock_turn(self, unit: WorkUnit) -> Turn:
        """Make a unit's videos as a plain loop does: a call, its file, the next call."""
        start = time.perf_counter()
        loaded = self._loaded(unit)
        records = []
        for planned in unit.videos:
            assert loaded.picture is not None
            call = partial(self.stock.generate, loaded.picture, planned.cell, planned.seed)
            try:
                generated = self.stage.compute(call)
            except Exception as error:  # as Generate does for ours
                raise UserError(f"bench: stock diffusers failed: {type(error).__name__}: {one_line(error)}") from error
            records.append(_made(self.plain.write(loaded, planned, generated)))
            self.count()
        return Turn(round(time.perf_counter() - start, 6), tuple(records))

    def our_turn(self, unit: WorkUnit) -> Turn:
        """Make a unit's videos as a job does, knowing nothing of the picture from an earlier turn."""
        known = self.stage.engine.pipe.known
        if known is not None:
            known.clear()
        start = time.perf_counter()
        records = []
        for result in self.stage(self._loaded(unit)):
            records.append(_made(result))
            self.count()
        return Turn(round(time.perf_counter() - start, 6), tuple(records))

    def _loaded(self, unit: WorkUnit) -> LoadedUnit:
        return load_image(unit, self.load.height, self.load.width, self.load.fit)


def _made(result: Result) -> VideoRecord:
    if isinstance(result, FailureRecord):
        raise UserError(f"bench: {result.stage} failed: {result.error_type}: {result.error_message}")
    return result


def _allocated_bytes() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
