"""The two sides of a bench, each at home in a process of its own: it makes the videos of a unit and times them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from svd_batch import checkpoint
from svd_batch.backends import LoadSettings, ahead
from svd_batch.bench.stock import Stock
from svd_batch.committer import Committer, Embedded, Encoded
from svd_batch.config import MemoryConfig
from svd_batch.engine.generated import EngineInfo, Generated
from svd_batch.engine.pipeline import engine_info
from svd_batch.errors import UserError
from svd_batch.load import LoadedUnit, load_image
from svd_batch.locations import location
from svd_batch.records import FailureRecord, PlannedVideo, Result, VideoRecord, WorkUnit
from svd_batch.settings import GenerateSettings
from svd_batch.stages import Generate
from svd_batch.store import Store


@dataclass(frozen=True)
class Turn:
    """One side's grids of some pictures, from the first picture's file to the last committed video."""

    wall_s: float
    records: tuple[VideoRecord, ...]
    pixels: tuple[NDArray[np.float32], ...] = ()
    """Of each record's video, (T, H, W, 3) on [0, 1], before rounding."""


@dataclass(frozen=True)
class Start:
    """A side that is loaded."""

    load_s: float
    memory: MemoryConfig
    """What holds of it, also where it was left to choose."""
    notes: tuple[str, ...] = ()


class StockLoop:
    """Stock diffusers as a plain loop calls it: a video, its file, the next video; all in one thread."""

    def __init__(self, settings: GenerateSettings, load: LoadSettings) -> None:
        Store(location(settings.output)).create()
        self.load = load
        if settings.torch_threads is not None:
            torch.set_num_threads(settings.torch_threads)
        start = time.perf_counter()
        self.stock = Stock(checkpoint.fetch(settings.model), settings.model, settings.memory)
        self.start = Start(time.perf_counter() - start, settings.memory)
        self.committer = _Keeping(settings, engine_info(self.stock.device))

    def turn(self, units: Sequence[WorkUnit]) -> Turn:
        """Return the units' videos and what they took."""
        start = time.perf_counter()
        records = []
        for unit in units:
            loaded = _loaded(unit, self.load)
            for planned in unit.videos:
                assert loaded.picture is not None
                generated = self.stock.generate(loaded.picture, planned.cell, planned.seed)
                records.append(_made(self.committer.write(loaded, planned, generated)))
        return self.committer.turn(time.perf_counter() - start, records)


class Sweep:
    """The sweep engine as a job has it in one of its actors."""

    def __init__(self, settings: GenerateSettings, load: LoadSettings) -> None:
        Store(location(settings.output)).create()
        self.load = load
        start = time.perf_counter()
        self.stage = Generate(settings)
        seconds, engine = time.perf_counter() - start, self.stage.engine
        self.start = Start(seconds, engine.memory, tuple(self.stage.take_notes()))
        engine.keep_pixels = True
        self.stage.committer = self.committer = _Keeping(settings, self.stage.committer.info)

    def turn(self, units: Sequence[WorkUnit]) -> Turn:
        """Return the units' videos and what they took, knowing nothing of their pictures from an earlier turn."""
        known = self.stage.engine.pipe.known
        if known is not None:
            known.clear()
        start = time.perf_counter()
        loaded = (_loaded(unit, self.load) for unit in units)
        records = [_made(result) for results in ahead(map(self.stage, loaded)) for result in results]
        return self.committer.turn(time.perf_counter() - start, records)


class _Keeping(Committer):
    """Commits as a job does, and keeps the pixels for the comparison."""

    def __init__(self, settings: GenerateSettings, info: EngineInfo) -> None:
        super().__init__(settings, info)
        self.pixels: dict[str, NDArray[np.float32]] = {}

    def encode(
        self,
        loaded: LoadedUnit,
        planned: PlannedVideo,
        generated: Generated,
        embedded: Embedded,
        started_at: str | None = None,
    ) -> Encoded | FailureRecord:
        assert generated.pixels is not None
        self.pixels[planned.video_id] = generated.pixels
        return super().encode(loaded, planned, generated, embedded, started_at)

    def turn(self, wall_s: float, records: Sequence[VideoRecord]) -> Turn:
        """Return a turn that has just ended, and forget its videos, so that the same may be made again."""
        for record in records:
            self.store.forget(record.video_id)
        pixels, self.pixels = self.pixels, {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what torch holds in reserve is now the other process's to use
        return Turn(round(wall_s, 6), tuple(records), tuple(pixels[record.video_id] for record in records))


def _loaded(unit: WorkUnit, load: LoadSettings) -> LoadedUnit:
    return load_image(unit, load.height, load.width, load.fit, load.access)


def _made(result: Result) -> VideoRecord:
    if isinstance(result, FailureRecord):
        raise UserError(f"{result.stage}: {result.error_type}: {result.error_message}")
    return result
