"""Stock diffusers' own pipeline, timed from outside. Knows nothing of the sweep engine's shortcuts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from svd_batch.config import MemoryConfig, ModelConfig, Offload
from svd_batch.engine.generated import Generated
from svd_batch.engine.machine import Laps, device_type, peak_memory_bytes, reset_peak_resident_bytes
from svd_batch.engine.pipeline import SIGMAS
from svd_batch.profiles import profile_name
from svd_batch.records import SweepCell


class Stock:
    """The pipeline as diffusers' guide loads and calls it; of `memory` it takes what stock has: offload and chunking.

    Its phases have the same borders as the sweep engine's: the first call of the UNet, and the decoder.
    """

    def __init__(self, folder: Path, model: ModelConfig, memory: MemoryConfig) -> None:
        self.model, self.memory = model, memory
        self.device = torch.device(device_type())
        self.pipe: Any = StableVideoDiffusionPipeline.from_pretrained(
            folder,
            torch_dtype=getattr(torch, model.dtype.value),
            variant=model.variant,
            use_safetensors=True,
            local_files_only=True,
        )
        self.pipe.set_progress_bar_config(disable=True)
        if memory.forward_chunking:
            self.pipe.unet.enable_forward_chunking()
        if memory.offload is Offload.model:
            self.pipe.enable_model_cpu_offload()
        elif memory.offload is Offload.sequential:
            self.pipe.enable_sequential_cpu_offload()
        else:
            self.pipe.to(self.device)
        self._laps = Laps(self.device)
        self._decode_latents = self.pipe.decode_latents
        self.pipe.decode_latents = self._decode
        self.pipe.unet.register_forward_pre_hook(self._before_unet)

    def _before_unet(self, *unused: Any) -> None:
        if not self._laps.seconds:
            self._laps.end("condition")

    def _decode(self, *arguments: Any, **keywords: Any) -> Any:
        self._laps.end("denoise")
        return self._decode_latents(*arguments, **keywords)

    def generate(self, picture: NDArray[np.uint8], cell: SweepCell, seed: int) -> Generated:
        """Return one video of a picture (H, W, 3) of the model's size, with its unrounded pixels."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak_resident_bytes()
        start = time.perf_counter()
        self._laps = Laps(self.device)
        pixels = self.pipe(
            Image.fromarray(picture),
            height=self.model.height,
            width=self.model.width,
            num_frames=self.model.num_frames,
            num_inference_steps=cell.num_inference_steps,
            sigmas=SIGMAS[cell.sampler],
            min_guidance_scale=cell.min_guidance_scale,
            max_guidance_scale=cell.max_guidance_scale,
            fps=cell.fps,
            motion_bucket_id=cell.motion_bucket_id,
            noise_aug_strength=cell.noise_aug_strength,
            decode_chunk_size=cell.decode_chunk_size,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        ).frames[0]  # (T, H, W, 3) float in [0, 1]
        self._laps.end("decode")
        frames = (pixels * 255).round().astype(np.uint8)
        phases: dict[str, Any] = {f"{phase}_s": seconds for phase, seconds in self._laps.seconds.items()}
        return Generated(
            frames,
            batch_size=1,
            torch_threads=torch.get_num_threads(),
            generate_s=time.perf_counter() - start,
            memory_profile=profile_name(self.memory),
            peak_memory_bytes=peak_memory_bytes(self.device),
            pixels=pixels,
            **phases,
        )
