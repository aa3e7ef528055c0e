"""What this machine computes on, and which settings it can't do. Imports torch but not diffusers."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch

from svd_batch.config import Dtype, MemoryConfig, ModelConfig, Offload
from svd_batch.errors import UserError


def device_type() -> str:
    """Return `cuda` where torch sees a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_machine(model: ModelConfig, memory: MemoryConfig, device_type: str) -> None:
    """Raise UserError for settings that the device can't do."""
    if device_type == "cpu" and model.dtype is Dtype.float16:
        raise UserError(
            "model.dtype: float16 needs a CUDA GPU and this machine shows none; give model.dtype=float32 or bfloat16"
        )
    if device_type == "cpu" and memory.offload is not Offload.none:
        raise UserError(
            f"memory.offload: {memory.offload.value} needs a CUDA GPU and this machine shows none; give none"
        )


class Laps:
    """Seconds of a call's phases, one after the other; on a GPU each border waits until it has caught up."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._last = self._now()

    def end(self, phase: str) -> None:
        """Count the time since the last border as `phase`."""
        now = self._now()
        self.seconds[phase] = now - self._last
        self._last = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def peak_memory_bytes(device: torch.device) -> int:
    """Return the GPU's peak since it was last reset; on a CPU that of the whole process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cpu_name() -> str:
    """Return the processor's name as Linux tells it, or `cpu`."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "cpu"
