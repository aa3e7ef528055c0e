"""An engine of milliseconds that does to each video what a test says; for all that isn't about pixels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from builders import make_frames
from numpy.typing import NDArray

from svd_batch.engine.generated import EngineInfo, Generated
from svd_batch.records import SweepCell

Act = Callable[[SweepCell], None]


class StubEngine:
    """Calls `act` with the cell of each video, which may raise; then there are frames."""

    def __init__(
        self,
        act: Act | None = None,
        batch_size: int = 1,
        frames: NDArray[np.uint8] | None = None,
        lanes: int = 1,
        num_writers: int = 1,
    ) -> None:
        self.num_writers = num_writers
        self.act, self.most, self.lanes = act, batch_size, lanes
        self._threads = [ThreadPoolExecutor(1) for _ in range(lanes)]
        self.frames = make_frames() if frames is None else frames
        self.notes: list[str] = []
        self.batches: list[list[int]] = []
        """The motion buckets of every batch that was asked for."""
        self.is_cancelled = threading.Event()

    def info(self) -> EngineInfo:
        return EngineInfo("stub", "0", "0")

    def batch_key(self, cell: SweepCell) -> Hashable:
        return ()

    def batch_size(self, cell: SweepCell, available: int) -> int:
        return min(self.most, available)

    def num_lanes(self, cell: SweepCell) -> int:
        return self.lanes

    def submit(self, lane: int, work: Callable[[], Any]) -> Future[Any]:
        return self._threads[lane].submit(work)

    def generate_in_lane(self, lane: int, picture: Any, cell: SweepCell, seed: int) -> Future[Any]:
        return self.generate_batch(picture, [(cell, seed)])[0]

    def generate_batch(self, picture: Any, asked: Sequence[tuple[SweepCell, int]]) -> list[Future[Any]]:
        self.batches.append([cell.motion_bucket_id for cell, _ in asked])
        made: list[Future[Any]] = [Future() for _ in asked]
        for (cell, _), future in zip(asked, made, strict=True):
            try:
                if self.act is not None:
                    self.act(cell)
                future.set_result(Generated(self.frames, len(asked), 1, 0.001, "fast", 1, 0.0, 0.0, 0.0))
            except Exception as error:
                future.set_exception(error)
        return made

    def cancel(self) -> None:
        self.is_cancelled.set()
