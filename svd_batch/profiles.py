"""Memory profiles by name, fastest first: which settings each has, which comes next, and what compiles with what.

Data and comparisons only. `conf/memory/` shows the same settings to the user; a test keeps the two equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from svd_batch.config import Compile, MemoryConfig, Offload, SpeedConfig
from svd_batch.errors import UserError

PROFILES: Mapping[str, MemoryConfig] = {
    "fast": MemoryConfig(),
    "balanced": MemoryConfig(forward_chunking=True),
    "low": MemoryConfig(offload=Offload.model, forward_chunking=True, split_guidance=True),
    "minimal": MemoryConfig(offload=Offload.sequential, forward_chunking=True, split_guidance=True),
}
"""From the fastest to the one that takes the least memory."""

COMPILES: Mapping[Offload, str | None] = {
    Offload.none: None,
    Offload.model: "the compiled UNet's weights would move between host and GPU for every video",
    Offload.sequential: "every layer's weights are replaced while the compiled UNet runs",
}
"""For each kind of offload, why a compiled UNet doesn't go with it; None where it does. Slices and halves all go."""

MARGIN_SHARE, MARGIN_BYTES = 0.1, 2**29
"""What is kept free beyond an estimate: kernels' workspaces, and what an allocator loses to fragments."""

_THRIFT = {Offload.none: 0, Offload.model: 1, Offload.sequential: 2}


def with_margin(num_bytes: int) -> int:
    """Return what has to be free for an estimated peak."""
    return round(num_bytes * (1 + MARGIN_SHARE)) + MARGIN_BYTES


def profile_name(memory: MemoryConfig) -> str:
    """Return the profile that has these settings, `auto`, or `custom`."""
    if memory.auto:
        return "auto"
    return next((name for name, settings in PROFILES.items() if settings == memory), "custom")


def candidates(device_type: str, *, compiled: bool = False) -> list[str]:
    """Return the profiles that a device can take, fastest first; offload needs a GPU and excludes compilation."""
    return [
        name
        for name, memory in PROFILES.items()
        if (device_type == "cuda" or memory.offload is Offload.none)
        and not (compiled and COMPILES[memory.offload] is not None)
    ]


def next_profile(memory: MemoryConfig, device_type: str, *, compiled: bool = False) -> str | None:
    """Return the fastest profile that saves at least what `memory` saves and something more; None after the last."""

    def savings(settings: MemoryConfig) -> tuple[int, ...]:
        return _THRIFT[settings.offload], settings.forward_chunking, settings.split_guidance

    now = savings(memory)
    for name in candidates(device_type, compiled=compiled):
        then = savings(PROFILES[name])
        if then != now and all(a >= b for a, b in zip(then, now, strict=True)):
            return name
    return None


def must_compile(speed: SpeedConfig) -> bool:
    """Return whether compilation is asked for, whether or not it pays."""
    return speed.compile in (Compile.regional, Compile.whole)


def compile_mode(memory: MemoryConfig, speed: SpeedConfig) -> Compile:
    """Return what is compiled with these settings: `auto` leaves it where compilation doesn't go with the memory."""
    return speed.compile if COMPILES[memory.offload] is None else Compile.off


def check_compile(memory: MemoryConfig, speed: SpeedConfig) -> None:
    """Raise UserError where compilation is asked for with memory settings that it doesn't go with."""
    reason = COMPILES[memory.offload]
    if must_compile(speed) and reason is not None:
        going = ", ".join(candidates("cuda", compiled=True))
        raise UserError(
            f"speed.compile: {speed.compile.value} doesn't go with memory.offload={memory.offload.value}, since "
            f"{reason}; give memory={going.replace(', ', ' or memory=')}, or speed.compile=auto"
        )


def settings_text(memory: MemoryConfig) -> str:
    """Return the settings as `key=value` pairs, for messages about settings that no profile has."""
    values = dataclasses.asdict(memory) | {"offload": memory.offload.value}
    return ", ".join(f"{k}={str(v).lower()}" for k, v in values.items() if k != "auto")
