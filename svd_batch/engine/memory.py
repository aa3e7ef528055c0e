"""What speed and memory settings do to a loaded pipeline, and what running out of memory looks like."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import torch

from svd_batch.config import MemoryConfig, Offload, SpeedConfig
from svd_batch.engine.fast_unet import FastUNet, Switches, make_fast

SWITCHES = tuple(field.name for field in dataclasses.fields(Switches))


def apply_speed(pipe: Any, speed: SpeedConfig, memory: MemoryConfig, device_type: str) -> None:
    """Make a loaded pipeline take the exact shortcuts and save activations.

    What is left to auto is on for a CPU only: slices are there for memory on a GPU, with channels_last a GPU's group
    norm turns its input back at every layer, and temporal_conv2d made a UNet's step slower there (docs/log.md).
    """
    values = {name: getattr(speed, name) for name in SWITCHES}
    wanted = {name: device_type == "cpu" if value == "auto" else bool(value) for name, value in values.items()}
    if speed.reuse_conditioning:
        pipe.enable_conditioning_reuse(keep_float32_encoder=memory.offload is Offload.none)
    make_fast(pipe, Switches(**wanted))
    set_activations(pipe, memory)


def set_activations(pipe: Any, memory: MemoryConfig) -> None:
    """Make the pipeline save activations as the profile says; what saves already goes on saving."""
    pipe.split_guidance = memory.split_guidance
    if not memory.forward_chunking:
        return
    unet = pipe.unet
    if isinstance(unet, FastUNet):
        unet.switches = dataclasses.replace(unet.switches, slice_feed_forward=True)
        for transformer in unet.transformers:
            transformer.switches = unet.switches
    else:
        unet.enable_forward_chunking()


def place(pipe: Any, memory: MemoryConfig, device: torch.device) -> None:
    """Put the pipeline's weights where the profile wants them, wherever they are now."""
    pipe.remove_all_hooks()
    if memory.offload is not Offload.none and pipe.known is not None:
        pipe.known.encoder = None  # the second encoder would stay on the GPU; without it the VAE is turned to float32
    if memory.offload is Offload.model:
        pipe.enable_model_cpu_offload(device=device)
    elif memory.offload is Offload.sequential:
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)


def recover(pipe: Any, dtype: torch.dtype) -> None:
    """Bring a pipeline that ran out of memory in the middle of a call back to a state that it can begin from."""
    if pipe.vae.dtype != dtype:  # it was encoding in float32
        pipe.vae.to(dtype=dtype)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an exception says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
