"""The millisecond engine: stands in for svd_batch.engine.pipeline in the processes of a crash test. No torch.

Its frames are a drifting, tinted picture, the same to the bit for the same picture, cell and seed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crash.settings import VARIABLE, from_text
from svd_batch.config import ModelConfig
from svd_batch.engine.generated import EngineInfo, Generated
from svd_batch.records import SweepCell


class Engine:
    """Takes what the real one takes; of it only the shape of the videos counts."""

    num_writers = 1

    def __init__(self, folder: Any, model: ModelConfig, *arguments: Any, **options: Any) -> None:
        self.model = model
        self.notes: list[str] = []
        self._seconds = from_text(os.environ[VARIABLE]).engine_ms / 1000

    def info(self) -> EngineInfo:
        """Return names that tell where the videos come from."""
        return EngineInfo("millisecond engine", "none", "none")

    @staticmethod
    def batch_key(cell: SweepCell) -> Hashable:
        """Return what cells that share a batch have in common: everything, as each is alone."""
        return cell

    def batch_size(self, cell: SweepCell, available: int) -> int:
        """Return 1."""
        return 1

    def num_lanes(self, cell: SweepCell) -> int:
        """Return 1: none."""
        return 1

    def generate_batch(
        self, picture: NDArray[np.uint8], asked: Sequence[tuple[SweepCell, int]]
    ) -> list[Future[Generated]]:
        """Return a finished future for each (cell, seed)."""
        made = []
        for cell, seed in asked:
            start = time.perf_counter()
            frames = self._frames(picture, cell, seed)
            time.sleep(max(0.0, start + self._seconds - time.perf_counter()))
            seconds = time.perf_counter() - start
            future: Future[Generated] = Future()
            future.set_result(Generated(frames, 1, 1, seconds, "fast", 0, 0.0, seconds, 0.0))
            made.append(future)
        return made

    def embed(self, pictures: Sequence[NDArray[np.uint8]], torch_threads: int | None = None) -> NDArray[np.float32]:
        """Return a colour for each picture where the real one returns what CLIP says."""
        return np.stack([picture.mean(axis=(0, 1)) for picture in pictures]).astype(np.float32)

    def _frames(self, picture: NDArray[np.uint8], cell: SweepCell, seed: int) -> NDArray[np.uint8]:
        digest = hashlib.sha256(f"{seed} {tuple(vars(cell).values())}".encode()).digest()
        tint = np.frombuffer(digest[:3], np.uint8) // 8
        step = 1 + digest[3] % 3
        tinted = np.tile(picture // 8 * 7 + tint, (1, 2, 1))
        width = picture.shape[1]
        starts = [-t * step % width for t in range(self.model.num_frames)]
        return np.stack([tinted[:, start : start + width] for start in starts])
