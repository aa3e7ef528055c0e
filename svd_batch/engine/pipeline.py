"""One loaded SVD pipeline: a picture and a cell in, frames out.

Weights come from a local folder (see checkpoint.py), safetensors only; the device is CUDA where there is
one, else the CPU.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.schedulers import AysSchedules
from numpy.typing import NDArray
from PIL import Image

from svd_batch.config import MemoryConfig, ModelConfig, Offload, SpeedConfig
from svd_batch.engine.fast_unet import FastUNet, Switches, make_fast
from svd_batch.engine.machine import (
    check_machine,
    cpu_name,
    device_type,
    peak_memory_bytes,
    reset_peak_resident_bytes,
)
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline
from svd_batch.engine.weights import check_weights
from svd_batch.errors import UserError
from svd_batch.images import one_line
from svd_batch.records import SweepCell

SIGMAS: dict[str, list[float] | None] = {"euler": None, "ays10": AysSchedules["StableDiffusionVideoSigmas"]}
"""The noise levels that each sampler gives to the scheduler; None leaves them to num_inference_steps."""


@dataclass(frozen=True)
class Generated:
    """One video's frames and what they cost."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3)."""
    generate_s: float
    peak_memory_bytes: int
    """The most during this video: of a GPU what torch held, on a CPU what `machine.peak_resident_bytes` says."""
    condition_s: float
    """CLIP, VAE encoding and what else comes before the first step."""
    denoise_s: float
    decode_s: float
    pixels: NDArray[np.float32] | None = None
    """The frames on [0, 1] before rounding, where the engine was told to keep them."""


@dataclass(frozen=True)
class EngineInfo:
    """What the engine runs on; the same for all of its videos."""

    device_name: str
    torch_threads: int
    diffusers_version: str
    torch_version: str


class Engine:
    """A pipeline held in memory.

    Raises: UserError when the settings don't fit the checkpoint or the machine.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelConfig,
        memory: MemoryConfig,
        speed: SpeedConfig,
        torch_threads: int | None = None,
    ) -> None:
        if torch_threads is not None:
            torch.set_num_threads(torch_threads)
        self.torch_threads = torch_threads
        self.keep_pixels = False
        """Whether to hand on unrounded pixels too; four times the frames' memory."""
        self.model = model
        self.device = torch.device(device_type())
        check_machine(model, memory, self.device.type)
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        self.pipe = _load(folder, model)
        _apply_speed(self.pipe, speed, memory, self.device.type)
        self.pipe.split_guidance = memory.split_guidance
        if memory.offload is Offload.model:
            self.pipe.enable_model_cpu_offload()
        elif memory.offload is Offload.sequential:
            self.pipe.enable_sequential_cpu_offload()
        else:
            self.pipe.to(self.device)
        self.pipe.set_progress_bar_config(disable=True)

    def info(self) -> EngineInfo:
        """Return what this engine runs on."""
        cuda = self.device.type == "cuda"
        return EngineInfo(
            device_name=torch.cuda.get_device_name(self.device) if cuda else cpu_name(),
            torch_threads=torch.get_num_threads(),
            diffusers_version=diffusers.__version__,
            torch_version=torch.__version__,
        )

    def generate(self, picture: NDArray[np.uint8], cell: SweepCell, seed: int) -> Generated:
        """Return one video of a picture (H, W, 3) of the model's size.

        The generator lives on the CPU, as in diffusers' guide, so that a seed means the same noise on every device.
        """
        if self.torch_threads is not None:
            torch.set_num_threads(self.torch_threads)  # per thread under OpenMP, and callers run us in their own
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak_resident_bytes()
        start = time.perf_counter()
        video = self.pipe(
            Image.fromarray(picture),
            height=self.model.height,
            width=self.model.width,
            num_frames=self.model.num_frames,
            num_inference_steps=cell.num_inference_steps,
            min_guidance_scale=cell.min_guidance_scale,
            max_guidance_scale=cell.max_guidance_scale,
            fps=cell.fps,
            motion_bucket_id=cell.motion_bucket_id,
            noise_aug_strength=cell.noise_aug_strength,
            decode_chunk_size=cell.decode_chunk_size,
            sigmas=SIGMAS[cell.sampler],
            guidance_sigma_min=cell.guidance_sigma_min,
            guidance_sigma_max=cell.guidance_sigma_max,
            deep_cache_interval=cell.deep_cache_interval,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        ).frames[0]  # (T, H, W, 3) float in [0, 1]
        if not np.isfinite(video).all():
            raise ValueError("the model returned NaN or infinite pixels")
        frames = (video * 255).round().astype(np.uint8)
        return Generated(
            frames,
            time.perf_counter() - start,
            peak_memory_bytes(self.device),
            **{f"{phase}_s": seconds for phase, seconds in self.pipe.seconds.items()},
            pixels=video if self.keep_pixels else None,
        )


def _apply_speed(pipe: Any, speed: SpeedConfig, memory: MemoryConfig, device_type: str) -> None:
    """Make the loaded pipeline take the exact shortcuts; slices are for speed on a CPU and for memory on a GPU."""
    wanted = dataclasses.asdict(speed)
    if wanted.pop("reuse_conditioning"):
        pipe.enable_conditioning_reuse(keep_float32_encoder=memory.offload is Offload.none)
    cut = memory.forward_chunking or (speed.slice_feed_forward and device_type == "cpu")
    make_fast(pipe, Switches(**{**wanted, "slice_feed_forward": cut}))
    if memory.forward_chunking and not isinstance(pipe.unet, FastUNet):
        pipe.unet.enable_forward_chunking()


def _load(folder: Path, model: ModelConfig) -> Any:
    check_weights(folder, model.variant)
    try:
        return SVDSweepPipeline.from_pretrained(
            folder,
            torch_dtype=getattr(torch, model.dtype.value),
            variant=model.variant,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model.id: {folder} does not load as an SVD checkpoint: {one_line(error)}") from error
