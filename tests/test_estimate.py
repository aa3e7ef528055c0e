"""The estimator: its peaks are the true ones of a CPU, its FLOPs and its figures for SVD-XT those of the real graph."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import CpuOffload
from builders import run_python
from PIL import Image
from torch.profiler import profile

from svd_batch.bench import OFF
from svd_batch.checkpoint import published_configs
from svd_batch.checkpoint_files import read_configs
from svd_batch.config import MemoryConfig, Offload, SpeedConfig
from svd_batch.engine import estimate as module
from svd_batch.engine.estimate import RESIDENT, Work, estimate
from svd_batch.engine.ledger import Ledger, gpu_workspace_bytes
from svd_batch.engine.memory import apply_speed
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline
from svd_batch.profiles import PROFILES

GB, GIB = 10**9, 2**30
EXACT = SpeedConfig()
SPLIT = MemoryConfig(split_guidance=True)
XT = Work(25, 576, 1024, "float16", guided=True, decode_chunk_size=2)


# --- against what a GPU took ------------------------------------------------------------------------------------

PEAKS = json.loads((Path(__file__).parent.parent / "benchmarks/gpu_peaks.json").read_text())
H100, H200 = (PEAKS[card]["peaks_gib"] for card in ("H100", "H200"))
STOCK = {
    "stock": MemoryConfig(),
    "stock, model offload, chunking": MemoryConfig(offload=Offload.model, forward_chunking=True),
    "stock, sequential offload, chunking": MemoryConfig(offload=Offload.sequential, forward_chunking=True),
}


def said_gib(name: str, chunk: str) -> float:
    memory, speed = (STOCK[name], OFF) if name in STOCK else (PROFILES[name], EXACT)
    work = dataclasses.replace(XT, decode_chunk_size=int(chunk))
    return estimate(published_configs(), work, memory, speed, "cuda").peak_bytes / GIB


@pytest.mark.parametrize(("name", "chunk"), [(name, chunk) for name in H200 for chunk in H200[name]])
def test_peaks_of_svd_xt_are_within_4_percent_of_what_an_h200_took(name: str, chunk: str) -> None:
    assert said_gib(name, chunk) == pytest.approx(H200[name][chunk], rel=0.04)


@pytest.mark.parametrize(("name", "chunk"), [(name, chunk) for name in STOCK for chunk in H100[name]])
def test_stocks_peaks_are_those_of_an_h100_or_above_where_it_decodes_many_frames_at_once(name: str, chunk: str) -> None:
    over = said_gib(name, chunk) / H100[name][chunk]
    assert 0.99 <= over <= (1.19 if chunk == "8" else 1.01)


def test_decoding_takes_no_more_than_stocks() -> None:
    work = dataclasses.replace(XT, decode_chunk_size=8)
    offload = MemoryConfig(offload=Offload.sequential, forward_chunking=True)
    theirs, ours = (
        estimate(published_configs(), work, memory, speed, "cuda").peaks["decode"]
        for memory, speed in ((offload, OFF), (PROFILES["minimal"], EXACT))
    )
    assert ours <= 1.001 * theirs


def test_a_gpus_group_norm_is_taken_to_copy_what_has_another_layout_and_to_hand_out_the_plain_one() -> None:
    states = torch.empty(2, 32, 8, 8).to(memory_format=torch.channels_last)
    peaks = []
    for is_gpu in (False, True):
        with Ledger(gpu_workspace_bytes, is_gpu=is_gpu) as ledger:
            normed = torch.nn.functional.group_norm(states, 32)
        assert normed.is_contiguous() is is_gpu
        peaks.append(ledger.peak_bytes)
    assert peaks[1] - peaks[0] == states.nbytes


@pytest.mark.parametrize("size", [(5,), (5, 6), (5, 6, 7)], ids=["1", "2", "3"])
def test_a_gpus_convolution_is_taken_to_turn_its_input_and_its_result(size: tuple[int, ...]) -> None:
    states, weight = torch.empty(1, 4, *size), torch.empty(8, 4, *(1 for _ in size))
    with Ledger(gpu_workspace_bytes, is_gpu=True) as ledger:
        result = (torch.conv1d, torch.conv2d, torch.conv3d)[len(size) - 1](states, weight)
    assert ledger.peak_bytes == 2 * result.nbytes + states.nbytes


# --- against what is true ---------------------------------------------------------------------------------------


def loaded(folder: Path, memory: MemoryConfig, speed: SpeedConfig) -> SVDSweepPipeline:
    pipe = SVDSweepPipeline.from_pretrained(folder, variant="fp16", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    apply_speed(pipe, speed, memory, "cpu")
    return pipe


def true_bytes(pipe: SVDSweepPipeline, side: int, chunk: int) -> int:
    """Return the most that torch's allocator gave out during a call, by the profiler's own count."""
    with profile(profile_memory=True) as profiler:
        pipe(
            Image.new("RGB", (side, side), (90, 40, 20)),
            height=side,
            width=side,
            num_frames=3,
            num_inference_steps=1,
            decode_chunk_size=chunk,
            output_type="pt",
            generator=torch.manual_seed(0),
        )
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize(
    ("memory", "speed"),
    [(PROFILES["fast"], OFF), (PROFILES["balanced"], OFF), (PROFILES["fast"], EXACT), (SPLIT, OFF), (SPLIT, EXACT)],
    ids=["fast, stock", "balanced, stock", "fast", "split, stock", "split"],
)
def test_peaks_are_within_15_percent_of_what_torch_allocates(
    memory: MemoryConfig, speed: SpeedConfig, chunk: int, tiny_checkpoint: Path
) -> None:
    pipe = loaded(tiny_checkpoint, memory, speed)
    parts = (pipe.unet, pipe.vae, pipe.image_encoder)
    weights = sum(t.nbytes for part in parts for t in (*part.parameters(), *part.buffers()))
    work = Work(3, 192, 192, "float32", guided=True, decode_chunk_size=chunk)
    estimated = estimate(read_configs(tiny_checkpoint), work, memory, speed, "cpu").peak_bytes - weights
    assert estimated == pytest.approx(true_bytes(pipe, 192, chunk), rel=0.15)


RESIDENT_CODE = """
import sys
from pathlib import Path
import torch
from PIL import Image
from svd_batch.config import MemoryConfig, SpeedConfig
from svd_batch.engine.machine import peak_resident_bytes, reset_peak_resident_bytes
from svd_batch.engine.memory import apply_speed
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline

torch.set_num_threads(1)
pipe = SVDSweepPipeline.from_pretrained(sys.argv[1], variant="fp16", torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
apply_speed(pipe, SpeedConfig(), MemoryConfig(), "cpu")
common = dict(num_frames=4, num_inference_steps=1, decode_chunk_size=2, output_type="pt")
pipe(Image.new("RGB", (64, 64)), height=64, width=64, generator=torch.manual_seed(0), **common)
pipe.known.clear()
resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
reset_peak_resident_bytes()
pipe(Image.new("RGB", (384, 256)), height=256, width=384, generator=torch.manual_seed(0), **common)
print(peak_resident_bytes() - resident)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells it")
def test_peaks_are_within_15_percent_of_what_the_system_gives_the_process(medium_checkpoint: Path) -> None:
    configs = read_configs(medium_checkpoint)
    given = run_python(
        RESIDENT_CODE, str(medium_checkpoint), MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0"
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work = Work(4, 256, 384, "float32", guided=True, decode_chunk_size=2)
        whole = estimate(configs, work, MemoryConfig(), EXACT, "cpu").peak_bytes
    finally:
        torch.set_num_threads(threads)
    weights = 4 * sum(parameters(configs).values())
    assert whole == pytest.approx(weights + int(given.stdout), rel=0.15)


def parameters(configs: dict[str, Any]) -> dict[str, int]:
    """Return the number of parameters of each part that the estimator builds."""
    pipe = module._build(module._Run(module._key(configs), XT, dataclasses.astuple(OFF), "cuda", True))
    return {part: sum(p.numel() for p in getattr(pipe, part).parameters()) for part in module.PARTS}


def test_model_offload_leaves_on_the_gpu_what_the_real_hooks_leave(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = loaded(tiny_checkpoint, MemoryConfig(), OFF)
    pipe.enable_model_cpu_offload(device="cpu")  # the chain is the same, whatever the device
    names = {id(getattr(pipe, name)): name for name in ("unet", "vae", "image_encoder")}
    resident: set[str] = set()
    seen: list[tuple[str, ...]] = []
    stock = CpuOffload.pre_forward

    def spy(self: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        if self.prev_module_hook is not None:
            resident.discard(names[id(self.prev_module_hook.model)])
        resident.add(names[id(module)])
        seen.append(tuple(sorted(resident)))
        return stock(self, module, *args, **kwargs)

    monkeypatch.setattr(CpuOffload, "pre_forward", spy)
    pipe(Image.new("RGB", (32, 32)), height=32, width=32, num_frames=3, num_inference_steps=1, output_type="pt")
    assert list(dict.fromkeys(seen)) == [tuple(sorted(parts)) for parts in RESIDENT.values()]


# --- what it depends on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_a_batch_takes_its_videos_activations_and_the_weights_once(device_type: str, tiny_checkpoint: Path) -> None:
    work = Work(3, 64, 64, "float32", guided=True, decode_chunk_size=1)
    configs = read_configs(tiny_checkpoint)
    alone, four = (
        estimate(configs, dataclasses.replace(work, batch_size=n), MemoryConfig(), EXACT, device_type) for n in (1, 4)
    )
    assert 3.5 * alone.denoise_flops < four.denoise_flops <= 4.1 * alone.denoise_flops
    assert alone.peaks["denoise"] < four.peaks["denoise"] < 4 * alone.peaks["denoise"]


def test_without_guidance_a_step_takes_half_of_the_flops(tiny_checkpoint: Path) -> None:
    work = Work(3, 32, 32, "float32", guided=True, decode_chunk_size=1)
    configs = read_configs(tiny_checkpoint)
    both = estimate(configs, work, MemoryConfig(), OFF, "cpu").denoise_flops
    one = estimate(configs, dataclasses.replace(work, guided=False), MemoryConfig(), OFF, "cpu").denoise_flops
    assert both == 2 * one


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_that_are_not_traced_are_counted_as_if_they_were(
    chunk: int, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(7, 32, 32, "float32", guided=False, decode_chunk_size=chunk, batch_size=2)
    run = module._Run(module._key(read_configs(tiny_checkpoint)), work, dataclasses.astuple(EXACT), "cuda", True)
    some = module._decode.__wrapped__(run)
    monkeypatch.setattr(module, "_Chunks", lambda decode, *_: decode)
    assert module._decode.__wrapped__(run) == some


def test_deep_features_that_are_kept_take_memory(tiny_checkpoint: Path) -> None:
    work = Work(3, 64, 64, "float32", guided=True, decode_chunk_size=1)
    configs = read_configs(tiny_checkpoint)
    without, with_features = (
        estimate(configs, dataclasses.replace(work, deep_cache=kept), MemoryConfig(), EXACT, "cpu")
        for kept in (False, True)
    )
    assert with_features.peaks["denoise"] > without.peaks["denoise"]
    assert with_features.denoise_flops == without.denoise_flops


@pytest.mark.slow
def test_the_page_on_memory_is_what_the_estimator_says() -> None:
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, str(root / "benchmarks/memory.py"), "--check"], check=False)
    assert done.returncode == 0, "run benchmarks/memory.py"
