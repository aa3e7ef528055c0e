"""What this machine computes on, and which settings it can't do. Imports torch but not diffusers."""

from __future__ import annotations

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


def cpu_name() -> str:
    """Return the processor's name as Linux tells it, or `cpu`."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "cpu"
