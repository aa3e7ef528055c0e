"""The Generate stage's threads."""

from __future__ import annotations

import threading
from pathlib import Path

from svd_batch.config import MemoryConfig, ModelConfig, SpeedConfig, VideoConfig
from svd_batch.engine.pipeline import Engine
from svd_batch.stages import Generate, GenerateSettings
from svd_batch.store import Store


def test_the_engine_is_loaded_in_the_thread_that_computes(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A second thread with an OpenMP pool of its own would slow every small operation down."""
    model = ModelConfig(id=str(tiny_checkpoint), name="tiny", num_frames=3, height=32, width=32)
    Store(tmp_path).create()
    loaded_in: list[str] = []

    def make_engine() -> Engine:
        loaded_in.append(threading.current_thread().name)
        return Engine(tiny_checkpoint, model, MemoryConfig(), SpeedConfig(), 1)

    stage = Generate(GenerateSettings(str(tmp_path), model, "r", MemoryConfig(), VideoConfig(), "f"), make_engine)
    assert loaded_in == [thread.name for thread in stage._denoiser._threads]
    stage.close()
