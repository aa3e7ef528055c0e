"""Which memory profile fits what is free, and the largest decode chunk that does where none fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from svd_batch.config import MemoryConfig, ModelConfig, SpeedConfig
from svd_batch.engine.estimate import Work, estimate
from svd_batch.errors import UserError
from svd_batch.profiles import PROFILES, candidates, profile_name, settings_text, with_margin
from svd_batch.records import SweepCell


@dataclass(frozen=True)
class Demand:
    """What memory is asked for: the checkpoint's configs, the videos' shape, and the heaviest cell of the job."""

    configs: Mapping[str, Any]
    model: ModelConfig
    speed: SpeedConfig
    cell: SweepCell
    device_type: str

    def bound_bytes(self) -> int:
        """Return what a video surely takes less than, without tracing it.

        For each pixel of every frame 16 times the channels of the wider first level, where the decoder of a published
        checkpoint takes 8; and more weights for the UNet's width than all its parts have. In float32.
        """
        channels = max(self.configs[part]["block_out_channels"][0] for part in ("unet", "vae"))
        widest = max(self.configs["unet"]["block_out_channels"])
        pixels = self.model.num_frames * self.model.height * self.model.width
        return int(4 * 16 * pixels * channels + 4 * 2500 * widest**2)

    def peak_bytes(self, memory: MemoryConfig, decode_chunk_size: int | None = None) -> int:
        """Return the estimated peak of one video, at the cell's chunk or another."""
        work = work_of(self.model, self.cell)
        work = replace(work, decode_chunk_size=min(decode_chunk_size or work.decode_chunk_size, work.num_frames))
        return estimate(self.configs, work, memory, self.speed, self.device_type).peak_bytes

    def largest_chunk(self, memory: MemoryConfig, needs: Callable[[int], int], free_bytes: int) -> int:
        """Return the largest chunk with which `needs(peak)` is free, 0 where not even one frame at a time fits."""
        low, high = 0, min(self.cell.decode_chunk_size, self.model.num_frames)
        while low < high:
            middle = (low + high + 1) // 2
            if needs(self.peak_bytes(memory, middle)) <= free_bytes:
                low = middle
            else:
                high = middle - 1
        return low


def work_of(model: ModelConfig, cell: SweepCell, batch_size: int = 1) -> Work:
    """Return what a call with this cell is asked for."""
    return Work(
        num_frames=model.num_frames,
        height=model.height,
        width=model.width,
        dtype=model.dtype.value,
        guided=cell.max_guidance_scale > 1,
        decode_chunk_size=min(cell.decode_chunk_size, model.num_frames),
        batch_size=batch_size,
        deep_cache=cell.deep_cache_interval > 1,
    )


def choose(demand: Demand, free_bytes: int | None, where: str, *, compiled: bool = False) -> tuple[MemoryConfig, str]:
    """Return the settings that `memory=auto` stands for, and the sentence that says why.

    Raises: UserError with the largest chunk that fits, where no profile does.
    """
    names = candidates(demand.device_type, compiled=compiled)
    if free_bytes is None:
        return PROFILES[names[0]], f"memory=auto took {names[0]}, the fastest: {where} doesn't tell how much is free"
    passed: list[str] = []
    for name in names:
        peak = demand.peak_bytes(PROFILES[name])
        if with_margin(peak) <= free_bytes:
            slower = f"; {' and '.join(passed)} would not fit" if passed else ", the fastest of all"
            return PROFILES[name], (
                f"memory=auto took {name}: it needs about {gib(peak)} and {gib(free_bytes)} are free on {where}{slower}"
            )
        passed.append(f"{name} ({gib(peak)})")
    thriftiest = PROFILES[names[-1]]
    chunk = demand.largest_chunk(thriftiest, with_margin, free_bytes)
    raise UserError(_refusal("auto", f"{names[-1]} takes the least", demand, thriftiest, free_bytes, where, chunk))


def check_fits(demand: Demand, memory: MemoryConfig, free_bytes: int | None, where: str) -> None:
    """Raise UserError where these settings can't fit, margin or not; with what would."""
    if free_bytes is None or demand.bound_bytes() <= free_bytes or demand.peak_bytes(memory) <= free_bytes:
        return
    names = candidates(demand.device_type)
    others = [name for name in names if demand.peak_bytes(PROFILES[name]) <= free_bytes]
    name = profile_name(memory)
    text = settings_text(memory) if name == "custom" else ""
    chunk = demand.largest_chunk(memory, lambda peak: peak, free_bytes)
    refusal = _refusal(name, text, demand, memory, free_bytes, where, chunk)
    raise UserError(refusal + (f"; memory={others[0]} fits as it is" if others else ""))


def too_little(demand: Demand, memory: MemoryConfig, free_bytes: int | None, why: str) -> str:
    """Return the sentence about a video that ran out of memory with the last profile that may be tried."""
    free = f"; {gib(free_bytes)} are free" if free_bytes is not None else ""
    return (
        f"out of memory with memory={profile_name(memory)}, and {why}: about "
        f"{gib(demand.peak_bytes(memory))} are needed at decode_chunk_size={demand.cell.decode_chunk_size}{free}"
    )


def gib(num_bytes: float) -> str:
    """Return bytes as a person compares them with a GPU's memory."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 / 10 else f"{num_bytes / 2**20:.0f} MiB"


def _refusal(
    name: str, detail: str, demand: Demand, memory: MemoryConfig, free_bytes: int, where: str, chunk: int
) -> str:
    asked = min(demand.cell.decode_chunk_size, demand.model.num_frames)
    fitting = (
        f"the largest decode_chunk_size that fits is {chunk}, and it changes the pixels"
        if chunk
        else f"not even decode_chunk_size=1 fits; give a smaller model.height, model.width or model.num_frames than "
        f"{demand.model.height}, {demand.model.width} and {demand.model.num_frames}"
    )
    return (
        f"memory={name}: {detail + ', ' if detail else ''}about {gib(demand.peak_bytes(memory))} at "
        f"decode_chunk_size={asked}, and {gib(free_bytes)} are free on {where}; {fitting}"
    )
