#!/usr/bin/env python3
"""Write docs/memory.md: what SVD-XT takes of a GPU, stock and with each memory profile, estimated and measured.

.venv/bin/python benchmarks/memory.py            # a minute
.venv/bin/python benchmarks/memory.py --check    # fails when the page is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from svd_batch.bench import OFF
from svd_batch.checkpoint import published_configs
from svd_batch.config import MemoryConfig, Offload, SpeedConfig
from svd_batch.engine.estimate import Estimate, Work, estimate
from svd_batch.gpus import CONTEXT_BYTES, EFFICIENCY, GPUS, video_seconds
from svd_batch.profiles import COMPILES, MARGIN_BYTES, MARGIN_SHARE, PROFILES

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs/memory.md"
MEASURED = json.loads((HERE / "gpu_peaks.json").read_text())
"""True peaks by benchmarks/on_gpu.py, by card, of settings whose code hasn't changed since."""
CHUNKS = (8, 2, 1)
STOCK_ROWS = {
    "stock": ("stock diffusers, all on the GPU", MemoryConfig()),
    "stock, model offload, chunking": (
        "stock diffusers, `enable_model_cpu_offload` and `unet.enable_forward_chunking`",
        MemoryConfig(offload=Offload.model, forward_chunking=True),
    ),
    "stock, sequential offload, chunking": (
        "stock diffusers, `enable_sequential_cpu_offload` and `unet.enable_forward_chunking`",
        MemoryConfig(offload=Offload.sequential, forward_chunking=True),
    ),
}


def settings_of() -> dict[str, tuple[str, MemoryConfig, SpeedConfig]]:
    """Return every row's name in the page and its settings."""
    ours = {name: (f"`memory={name}`", memory, SpeedConfig()) for name, memory in PROFILES.items()}
    return {**{name: (text, memory, OFF) for name, (text, memory) in STOCK_ROWS.items()}, **ours}


def of_xt(memory: MemoryConfig, speed: SpeedConfig, chunk: int) -> Estimate:
    """Return the estimate of one video of 25 frames of 1024x576 in float16, with guidance."""
    work = Work(25, 576, 1024, "float16", guided=True, decode_chunk_size=chunk)
    return estimate(published_configs(), work, memory, speed, "cuda")


def true(key: str, chunk: int) -> Iterator[tuple[str, float]]:
    """Yield the cards on which a row's peak was measured, and what it was."""
    for card, measured in MEASURED.items():
        if str(chunk) in measured["peaks_gib"].get(key, {}):
            yield card, measured["peaks_gib"][key][str(chunk)]


def table() -> Iterator[str]:
    """Yield the lines of the table of peaks, each estimate with the true peak behind it where there is one."""
    yield "| GiB at decode_chunk_size | " + " | ".join(map(str, CHUNKS)) + " | while denoising |"
    yield "|---|" + "---|" * (len(CHUNKS) + 1)
    for key, (name, *settings) in settings_of().items():
        estimates = [of_xt(*settings, chunk) for chunk in CHUNKS]
        peaks = [
            " ".join([f"{e.peak_bytes / 2**30:.2f}", *(f"(**{peak:.2f}**, {card})" for card, peak in true(key, chunk))])
            for e, chunk in zip(estimates, CHUNKS, strict=True)
        ]
        yield f"| {name} | {' | '.join(peaks)} | {estimates[0].peaks['denoise'] / 2**30:.2f} |"


def compute() -> Iterator[str]:
    """Yield the lines of the table of FLOPs."""
    yield "| TFLOP | CLIP | VAE encoding | a step | decoding | a video of 25 steps |"
    yield "|---|---|---|---|---|---|"
    for name, speed in (("stock diffusers", OFF), ("`speed=exact`", SpeedConfig())):
        taken = of_xt(PROFILES["fast"], speed, 8)
        parts = (taken.clip_flops, taken.encode_flops, taken.denoise_flops, taken.decode_flops, taken.flops(25))
        yield f"| {name} | " + " | ".join(f"{part / 1e12:.1f}" for part in parts) + " |"


def gpus() -> Iterator[str]:
    """Yield the lines of the table of GPUs."""
    yield "| GPU | GiB | peak TFLOP/s | estimated seconds a video | source |"
    yield "|---|---|---|---|---|"
    flops = of_xt(PROFILES["fast"], SpeedConfig(), 8).flops(25)
    for gpu in GPUS:
        seconds = video_seconds(flops, gpu)
        yield f"| {gpu.name} | {gpu.memory_gib} | {gpu.peak_tflops:g} | {seconds:.0f} | <{gpu.source}> |"


def compiles() -> Iterator[str]:
    """Yield the lines of the table of memory and compilation."""
    yield "| memory | `speed.compile=regional` or `whole` |"
    yield "|---|---|"
    for name, memory in PROFILES.items():
        reason = COMPILES[memory.offload]
        yield f"| `{name}` | {'goes' if reason is None else f'refused: {reason}'} |"
    yield "| `auto` | goes; only profiles that do are taken |"


PAGE_TEXT = """# Memory and FLOPs

Written by `benchmarks/memory.py`. Estimates, made without a GPU: the real graph of each setting, run on fake
tensors (`svd_batch/engine/estimate.py`). **In bold, in brackets: the true peak** (`torch.cuda.max_memory_allocated`,
`benchmarks/on_gpu.py`), on {machines}.
`tests/test_estimate.py` holds the estimates of our own rows to within 4 % of these, and on a CPU to within 15 % of true
peaks by torch's profiler and by what the system gives the process.

## SVD-XT, 25 frames of 1024x576, float16, with guidance, one video at a time

{peaks}

The pixels are those of stock diffusers at the same decode_chunk_size, which itself changes them. At 8 decoding
decides, more than 1 GiB a frame, and no profile changes that: 40 % of it is cuDNN's, which turns what goes into a
convolution, and what comes out, to a layout of its own. It chooses by the card: on the H100, stock diffusers got by
with 1.6 GiB less there than estimated. The estimate is the most.

Included: weights on the GPU (with offload, what diffusers' and accelerate's hooks leave there), activations, latents,
embeddings, frames, workspaces of cuDNN and cuBLAS, and the second, float32 encoder of `speed.reuse_conditioning`
(fast and balanced). Not included: the CUDA context (about {context:.1f} GiB), and what the allocator loses to
fragments: 0.2 GiB beside `low`'s 5.5 on that H200 with `speed.keep_memory`, which lets its blocks grow; 2.2 on the H100
without.
For these `memory=auto` wants {share:.0%} and {margin:g} GiB more to be free than the estimate says.

## FLOPs

{compute}

## GPUs

{gpus}

Peaks are dense float16 with float32 sums. Seconds assume {efficiency:.0%} of the peak on every GPU, without
torch.compile; the H100 and the H200 above gave 24 and 27 % (33 % compiled; docs/log.md), and `svd_batch/gpus.py` says
what else is known. `plan` prints hours with these, and money where `price_per_gpu_hour` is given.

## Memory and compilation

{compiles}

`speed.compile=auto` compiles nothing beside offload. The estimates are of the graph that isn't compiled.
"""


def page() -> str:
    """Return the whole page."""
    tables = {"peaks": table(), "compute": compute(), "gpus": gpus(), "compiles": compiles()}
    return PAGE_TEXT.format(
        **{name: "\n".join(lines) for name, lines in tables.items()},
        context=CONTEXT_BYTES / 2**30,
        share=MARGIN_SHARE,
        margin=MARGIN_BYTES / 2**30,
        efficiency=EFFICIENCY,
        machines=" and ".join(card["machine"].partition(", 2026")[0] for card in MEASURED.values()),
    )


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the page is out of date")
    check = parser.parse_args().check
    text = page()
    if check:
        return int(not PAGE.exists() or PAGE.read_text() != text)
    PAGE.write_text(text)
    print(f"{PAGE.name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
