"""FLOPs and peak memory of a video, from the graph that the engine runs, on fake tensors: no weights, no GPU, seconds.

The parts are built from their configs, changed as `Engine` changes them (memory.py) and called as the pipeline calls
them; a ledger (ledger.py) follows every storage from allocation to release. The fake tensors say that they are on the
CPU, since fake CUDA tensors need a torch that is linked with CUDA; where our code asks for the device (`on_gpu`) it is
told the one that counts. Weights are added by what diffusers' and accelerate's hooks leave on the device.

Not in the figures: the CUDA context, what the caching allocator loses to fragments, Python and its libraries on a CPU.
`profiles.with_margin` stands for them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Any
from unittest import mock

import diffusers
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from svd_batch.config import MemoryConfig, Offload, SpeedConfig
from svd_batch.engine import fast_unet, onednn
from svd_batch.engine.deep_cache import DeepCache
from svd_batch.engine.ledger import Ledger, cpu_workspace_bytes, gpu_workspace_bytes
from svd_batch.engine.memory import apply_speed
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline

PARTS = ("image_encoder", "vae", "unet")

RESIDENT: Mapping[str, tuple[str, ...]] = {
    "clip": ("image_encoder",),
    "encode": ("image_encoder", "vae"),
    "denoise": ("unet", "vae"),
    "decode": ("vae",),
}
"""What model offload leaves on the GPU: a part goes when the next one *of its chain* is called, so CLIP stays until the
UNet comes, and the VAE, which has encoded, stays beside the UNet. A test reads the same off the real hooks."""

CUBLAS_BYTES = 32 * 2**20
"""What cuBLAS keeps of a GPU from its first product on: torch gives it this much on an H100 or H200, less elsewhere."""


@dataclass(frozen=True)
class Work:
    """What one call of the pipeline is asked for, as far as memory and FLOPs depend on it."""

    num_frames: int
    height: int
    width: int
    dtype: str
    guided: bool
    decode_chunk_size: int
    batch_size: int = 1
    """Cells that are made at once: together on a GPU, each in a lane of its own on a CPU."""
    deep_cache: bool = False
    """Whether deep features are kept from step to step."""


@dataclass(frozen=True)
class Estimate:
    """What one call of the pipeline takes."""

    clip_flops: int
    encode_flops: int
    denoise_flops: int
    """Of one step of the whole batch."""
    decode_flops: int
    """Of all frames of the whole batch."""
    peaks: Mapping[str, int]
    """Bytes on the device by phase: clip, encode, denoise, decode; weights that are there included."""

    @property
    def peak_bytes(self) -> int:
        """The most that is held at any time."""
        return max(self.peaks.values())

    @property
    def peak_phase(self) -> str:
        """The phase that holds it."""
        return max(self.peaks, key=lambda phase: self.peaks[phase])

    def flops(self, num_steps: int) -> int:
        """Return the FLOPs of the whole call."""
        return self.clip_flops + self.encode_flops + num_steps * self.denoise_flops + self.decode_flops


def estimate(
    configs: Mapping[str, Any], work: Work, memory: MemoryConfig, speed: SpeedConfig, device_type: str
) -> Estimate:
    """Return what a call takes with the parts of these configs: `unet`, `vae`, `image_encoder`, as their JSON has them.

    `device_type` is where it will run, `cuda` or `cpu`; this machine needn't have it. What was traced once is
    remembered: profiles share most of it.
    """
    key = _key(configs)
    keeps = memory.offload is Offload.none and speed.reuse_conditioning  # a second encoder, where it is of use
    alone = replace(work, batch_size=1) if device_type == "cpu" else work  # a CPU makes a batch in lanes
    picture = replace(alone, decode_chunk_size=0, guided=False, batch_size=1, deep_cache=False)
    first = _Run(key, picture, astuple(speed), device_type, keeps)
    halves = memory.split_guidance and work.guided
    step = replace(first, work=replace(alone, decode_chunk_size=0), chunks=memory.forward_chunking, splits=halves)
    last = replace(first, work=replace(alone, guided=False, deep_cache=False), keeps_encoder=True)
    phases = {**_condition(first), "denoise": _denoise(step), "decode": _decode(last)}
    sizes, lanes = _weight_bytes(first), work.batch_size // alone.batch_size
    kept = CUBLAS_BYTES if device_type == "cuda" else 0
    peaks = {name: kept + phase.peak_bytes(name, memory.offload, sizes, lanes) for name, phase in phases.items()}
    flops = {name: phase.flops * (lanes if name in ("denoise", "decode") else 1) for name, phase in phases.items()}
    return Estimate(**{f"{name}_flops": number for name, number in flops.items()}, peaks=peaks)


# --- the trace --------------------------------------------------------------------------------------------------


def _key(configs: Mapping[str, Any]) -> str:
    return json.dumps({part: configs[part] for part in PARTS}, sort_keys=True)


@dataclass(frozen=True)
class _Run:
    """What a trace depends on."""

    key: str
    work: Work
    speed: tuple[Any, ...]
    device_type: str
    keeps_encoder: bool
    chunks: bool = False
    splits: bool = False


@dataclass(frozen=True)
class _Phase:
    """FLOPs of a phase, and the most that its tensors take: alone, and with the weights of the layer that runs."""

    flops: int
    tensor_bytes: int
    layer_bytes: int

    def peak_bytes(self, name: str, offload: Offload, sizes: Mapping[str, int], lanes: int) -> int:
        """Return the peak of some calls at once, with the weights that are on the device; `sizes` in bytes, by part."""
        if offload is Offload.sequential:
            return self.layer_bytes
        there = sizes if offload is Offload.none else RESIDENT[name]
        grown = sizes["upcast"] if name == "encode" else 0
        return lanes * self.tensor_bytes + grown + sum(sizes[part] for part in there if part != "upcast")


@functools.lru_cache(maxsize=64)
def _weight_bytes(run: _Run) -> dict[str, int]:
    """Return the bytes of each part, of the second encoder, and what the VAE grows by while it encodes."""
    pipe = _build(run)
    sizes = {name: _num_bytes(getattr(pipe, name)) for name in PARTS}
    encoder = pipe.known.encoder if pipe.known is not None else None
    upcasts = run.work.dtype == "float16" and pipe.vae.config.force_upcast and encoder is None
    return {**sizes, "encoder": 0 if encoder is None else _num_bytes(encoder), "upcast": sizes["vae"] * upcasts}


@functools.lru_cache(maxsize=64)
def _condition(run: _Run) -> dict[str, _Phase]:
    """Return CLIP and the VAE on one picture."""
    with _tracing(run, "image_encoder", "vae") as (pipe, ledger):
        dtype, config = getattr(torch, run.work.dtype), pipe.image_encoder.config
        with _phase(ledger) as clip:
            pipe.image_encoder(torch.empty(1, config.num_channels, config.image_size, config.image_size, dtype=dtype))
        with _phase(ledger) as encode:
            pipe._encode_picture(torch.empty(1, 3, run.work.height, run.work.width))
    return {"clip": clip[0], "encode": encode[0]}


@functools.lru_cache(maxsize=64)
def _denoise(run: _Run) -> _Phase:
    """Return one step of the whole batch."""
    work = run.work
    with _tracing(run, "unet") as (pipe, ledger), _phase(ledger) as result:
        latents, conditioning = _latents(pipe, work)
        halves = list(zip(*(p.chunk(2) for p in conditioning), strict=True)) if run.splits else [conditioning]
        pipe._guidance_scale = 3.0
        deep = DeepCache(pipe.unet, 2 if work.deep_cache else 1)
        pipe._predict(latents, torch.empty(()), halves, deep, 0)
        flops = ledger.flops  # a whole step's
        for number in (1, 2) if work.deep_cache else ():
            pipe._predict(latents, torch.empty(()), halves, deep, number)
    return replace(result[0], flops=round(flops))


@functools.lru_cache(maxsize=256)
def _decode(run: _Run) -> _Phase:
    """Return every frame of the batch, decoded and brought to [0, 1]."""
    work = run.work
    with _tracing(run, "vae") as (pipe, ledger), _phase(ledger) as result:
        latents, _conditioning = _latents(pipe, replace(work, guided=True))
        num_chunks = math.ceil(work.num_frames / work.decode_chunk_size)
        pipe.vae.decode = _Chunks(pipe.vae.decode, num_chunks, ledger)
        videos = [pipe.decode_latents(sample[None], work.num_frames, work.decode_chunk_size) for sample in latents]
        pipe.video_processor.postprocess_video(video=torch.cat(videos), output_type="pt")
    return result[0]


class _Chunks:
    """The VAE's `decode` for a video's chunks one after the other, of which only some are traced.

    All but the last are alike, and what is held meanwhile grows from one to the next: so the first is traced for its
    FLOPs and the last two for the peak. Those between count as much as the first and leave frames like its own.
    """

    def __init__(self, decode: Callable[..., Any], num_chunks: int, ledger: Ledger) -> None:
        self._decode, self._num_chunks, self._ledger = decode, num_chunks, ledger
        self._number, self._first_flops = 0, 0.0
        self._shape, self._dtype = torch.Size(), torch.float32

    def __call__(self, latents: Tensor, num_frames: int) -> Any:
        """Return the frames, traced or not."""
        position = self._number % self._num_chunks  # of several videos each has as many
        self._number += 1
        if self._number > 1 and position < self._num_chunks - 2:
            self._ledger.flops += self._first_flops
            return DecoderOutput(sample=torch.empty(self._shape, dtype=self._dtype))
        before = self._ledger.flops
        decoded = self._decode(latents, num_frames=num_frames)
        if self._number == 1:
            self._first_flops = self._ledger.flops - before
            self._shape, self._dtype = decoded.sample.shape, decoded.sample.dtype
        return decoded


def _latents(pipe: SVDSweepPipeline, work: Work) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return what the pipeline holds from the first step to the last: latents, and (image latents, embeddings, ids)."""
    dtype, factor = getattr(torch, work.dtype), pipe.vae_scale_factor
    frame = pipe.vae.config.latent_channels, work.height // factor, work.width // factor
    rows = work.batch_size * (2 if work.guided else 1)
    return torch.empty(work.batch_size, work.num_frames, *frame, dtype=dtype), (
        torch.empty(rows, work.num_frames, *frame, dtype=dtype),
        torch.empty(rows, 1, pipe.unet.config.cross_attention_dim, dtype=dtype),
        torch.empty(rows, 3, dtype=dtype),
    )


@contextmanager
def _phase(ledger: Ledger) -> Iterator[list[_Phase]]:
    """Yield a list that will hold what ran inside."""
    ledger.restart()
    result: list[_Phase] = []
    with ledger:
        yield result
    result.append(_Phase(round(ledger.flops), ledger.peak_bytes, ledger.peak_with_layers_bytes))


class _Scheduler:
    """Stands in for the scheduler: real ones compute with numbers that fake tensors don't have."""

    def scale_model_input(self, sample: Tensor, _: Any) -> Tensor:
        """Return a scaled sample, as every scheduler does."""
        return sample / 1.0


@contextmanager
def _tracing(run: _Run, *called: str) -> Iterator[tuple[SVDSweepPipeline, Ledger]]:
    """Yield a pipeline whose called parts are of fake tensors, and what counts them.

    Our own code is told the device that counts.
    """
    diffusers.utils.logging.set_verbosity_error()  # the VAE warns of conversions that the pipeline itself makes
    is_gpu = run.device_type == "cuda"
    pipe, ledger = _build(run), Ledger(gpu_workspace_bytes if is_gpu else cpu_workspace_bytes, is_gpu=is_gpu)
    pipe.scheduler = _Scheduler()
    parts = [getattr(pipe, name) for name in called]
    if "vae" in called and pipe.known is not None and pipe.known.encoder is not None:
        parts.append(pipe.known.encoder)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(FakeTensorMode())
        stack.enter_context(mock.patch.object(onednn, "on_gpu", functools.partial(_is_cuda, run)))
        stack.enter_context(mock.patch.object(fast_unet, "slices", functools.partial(_first_slices, ledger)))
        for part in parts:
            _replace_weights(part, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype))
            _follow(part, ledger)
        stack.enter_context(mock.patch.object(nn.Module, "_apply", functools.partialmethod(_convert, ledger)))
        yield pipe, ledger


def _is_cuda(run: _Run, _: Tensor) -> bool:
    return run.device_type == "cuda"


def _build(run: _Run) -> SVDSweepPipeline:
    """Return a pipeline as the engine sets it up, whose weights have a shape and a dtype but no values."""
    configs = json.loads(run.key)
    with torch.device("meta"):
        parts = {
            "unet": UNetSpatioTemporalConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKLTemporalDecoder.from_config(configs["vae"]),
            "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(configs["image_encoder"])),
        }
    for part in parts.values():
        nn.Module.to(part.eval(), getattr(torch, run.work.dtype))  # diffusers' own `to` warns of float16 off a GPU
    pipe = SVDSweepPipeline(**parts, scheduler=None, feature_extractor=None)
    memory = MemoryConfig(
        offload=Offload.none if run.keeps_encoder else Offload.model,
        forward_chunking=run.chunks,
        split_guidance=run.splits,
    )
    apply_speed(pipe, SpeedConfig(*run.speed), memory, run.device_type)
    return pipe


def _first_slices(ledger: Ledger, rows: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the first two slices; the second, which finds the first one's memory still held, stands for the rest."""
    parts = torch.split(rows, size)
    yield parts[0]
    if len(parts) > 1:
        ledger.repeat = (len(rows) - size) / size
        yield parts[1]
        ledger.repeat = 1.0


def _num_bytes(part: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))


def _replace_weights(module: nn.Module, change: Any) -> None:
    """Give a module new weights; torch's own way swaps tensors, which fake ones refuse."""
    for layer in module.modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                layer._parameters[name] = nn.Parameter(change(parameter), requires_grad=False)
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = change(buffer)


def _convert(module: nn.Module, ledger: Ledger, change: Any, recurse: bool = True) -> nn.Module:
    """Do what `module.to(dtype)` does; weights are counted by their parts' sizes, not here."""
    with ledger.weights():
        _replace_weights(module, change)
    return module


def _follow(part: nn.Module, ledger: Ledger) -> None:
    """Tell the ledger of the part's weights, and of each layer's while it runs, as accelerate's hooks bring them."""

    def arrive(layer: nn.Module, args: Any) -> None:
        ledger.add_layer(sum(p.nbytes for p in layer.parameters(recurse=False)))

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        ledger.add_layer(-sum(p.nbytes for p in layer.parameters(recurse=False)))

    with ledger.weights():
        for tensor in (*part.parameters(), *part.buffers()):
            ledger.enter(tensor)
    for layer in part.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_pre_hook(arrive)
            layer.register_forward_hook(leave)
