"""What an engine hands over: frames with what they cost. No torch, for whatever stands in for an engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Generated:
    """One video's frames and what they cost. Seconds of a video that was made beside others are its share of theirs."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3)."""
    batch_size: int
    """Videos that were made at once."""
    torch_threads: int
    """CPU threads that computed this one."""
    generate_s: float
    memory_profile: str
    """The profile with which it was made, `custom` for other settings."""
    peak_memory_bytes: int
    """The most during this video: of a GPU what torch held, on a CPU what `machine.peak_resident_bytes` says."""
    condition_s: float
    """CLIP, VAE encoding and what else comes before the first step."""
    denoise_s: float
    decode_s: float
    pixels: NDArray[np.float32] | None = None
    """The frames on [0, 1] before rounding, where the engine was told to keep them."""
    num_nan_frames: int = 0
    """Frames with NaN or infinite pixels, which are black in `frames`."""


@dataclass(frozen=True)
class EngineInfo:
    """What the engine runs on; the same for all of its videos."""

    device_name: str
    diffusers_version: str
    torch_version: str
