#!/usr/bin/env python3
"""Measure on a GPU: peaks of memory and their estimates, seconds of each shortcut, what happens when memory is short.

.venv/bin/python scripts/make_random_checkpoint --size full /tmp/xt    # or a real checkpoint's folder
.venv/bin/python benchmarks/on_gpu.py /tmp/xt --out on_gpu.json        # some minutes on an H100

Both sides get an allocator whose blocks can grow, as `speed.keep_memory` sets it; `--fixed-segments` leaves it alone.
Random weights take the same memory and time as trained ones. Steps are few: neither a peak nor the time of a step
depends on their number. The file is written anew after every measurement.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from svd_batch.bench import OFF
from svd_batch.checkpoint_files import read_configs
from svd_batch.config import Compile, Dtype, MemoryConfig, ModelConfig, Offload, SpeedConfig
from svd_batch.engine.fit import work_of
from svd_batch.profiles import PROFILES
from svd_batch.records import SweepCell

GIB = 2**30
CELL = SweepCell(127, 0.02, 7, 2, 1.0, 3.0, 8)
STOCK_MEMORY = {
    "stock": MemoryConfig(),
    "stock, model offload, chunking": MemoryConfig(offload=Offload.model, forward_chunking=True),
    "stock, sequential offload, chunking": MemoryConfig(offload=Offload.sequential, forward_chunking=True),
}
CHUNKS = (8, 2, 1)
FREE_GIB = (8.0, 6.5, 3.0, 10.5, 20.0)
"""What the section `short` leaves free, for `memory=auto` at chunk 2."""


class Measuring:
    """The file of results, and what every section measures with."""

    def __init__(self, folder: Path, model: ModelConfig, out: Path, only: list[str] | None = None) -> None:
        self.folder, self.model, self.out, self.only = folder, model, out, only
        random = np.random.default_rng(0)
        small = random.integers(0, 256, (9, 16, 3), dtype=np.uint8)
        self.picture = np.kron(small, np.ones((model.height // 9, model.width // 16, 1), np.uint8))
        self.results: dict[str, Any] = {}
        self.seconds_from = time.perf_counter()

    def note(self, section: str, name: str, **values: Any) -> None:
        """Print a measurement and write the file."""
        self.results.setdefault(section, {})[name] = values
        shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"[{time.perf_counter() - self.seconds_from:5.0f} s] {section} | {name}: {shown}", flush=True)
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")

    def stock(self, memory: MemoryConfig, **changes: Any) -> Any:
        """Return stock diffusers, loaded."""
        from svd_batch.bench.stock import Stock

        return Stock(self.folder, replace(self.model, **changes), memory)

    def engine(self, memory: MemoryConfig, speed: SpeedConfig, **keywords: Any) -> Any:
        """Return the sweep engine, loaded."""
        from svd_batch.engine.pipeline import Engine

        return Engine(self.folder, self.model, memory, speed, **keywords)


def free() -> None:
    """Give back what a pipeline that is gone held of the GPU."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


def difference(one: Any, other: Any) -> dict[str, float]:
    """Return how far two videos' pixels on [0, 1] are from each other."""
    apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return {"largest": float(apart.max()), "mean": float(apart.mean())}


def _peak(configs: Any, work: Any, memory: MemoryConfig, speed: SpeedConfig) -> dict[str, int]:
    from svd_batch.engine.estimate import estimate

    return dict(estimate(configs, work, memory, speed, "cuda").peaks)


def memory(at: Measuring) -> None:
    """Peaks of stock and of every profile at each chunk, beside the estimates; and whether profiles change pixels."""
    import torch

    rows = {name: (memory, OFF) for name, memory in STOCK_MEMORY.items()}
    rows |= {name: (memory, SpeedConfig(compile=Compile.off, batch_size=1)) for name, memory in PROFILES.items()}
    rows = {name: settings for name, settings in rows.items() if at.only is None or name in at.only}
    context = multiprocessing.get_context("spawn")
    expected: dict[tuple[str, int], Future[dict[str, int]]] = {}
    with ProcessPoolExecutor(len(rows), mp_context=context) as pool:
        for name, settings in rows.items():
            for chunk in CHUNKS:
                work = work_of(at.model, replace(CELL, decode_chunk_size=chunk))
                expected[name, chunk] = pool.submit(_peak, read_configs(at.folder), work, *settings)
    first: dict[int, Any] = {}
    for name, (settings, speed) in rows.items():
        start = time.perf_counter()
        side = at.stock(settings) if name in STOCK_MEMORY else at.engine(settings, speed)
        side.keep_pixels = True
        load_s = time.perf_counter() - start
        for chunk in CHUNKS:
            made = side.generate(at.picture, replace(CELL, decode_chunk_size=chunk), 7)
            peaks = expected[name, chunk].result()
            estimated = max(peaks.values())
            at.note(
                "memory",
                f"{name}, chunk {chunk}",
                peak_gib=made.peak_memory_bytes / GIB,
                estimated_gib=estimated / GIB,
                ratio=estimated / made.peak_memory_bytes,
                by=max(peaks, key=lambda phase: peaks[phase]),
                reserved_gib=torch.cuda.max_memory_reserved() / GIB,
                used_gib=(torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0]) / GIB,
                load_s=load_s,
                condition_s=made.condition_s,
                step_s=made.denoise_s / CELL.num_inference_steps,
                decode_s=made.decode_s,
                **difference(made.pixels, first.setdefault(chunk, made.pixels)),
            )
        del side
        free()


def _timed_steps(pipe: Any, at: Measuring, num_videos: int, steps: int) -> tuple[float, Any]:
    """Return the quickest seconds of a step of one video, of two calls after a warm-up, and the last call's latents."""
    import torch
    from PIL import Image

    quickest, latents = float("inf"), None
    for number in range(3):
        seen: list[float] = []

        def tick(pipe: Any, step: int, time_step: Any, tensors: Any, seen: list[float] = seen) -> dict[str, Any]:
            torch.cuda.synchronize()
            seen.append(time.perf_counter())
            return {}

        generators = [torch.Generator().manual_seed(7 + i) for i in range(num_videos)]
        latents = pipe(
            Image.fromarray(at.picture),
            height=at.model.height,
            width=at.model.width,
            num_frames=at.model.num_frames,
            num_inference_steps=steps,
            generator=generators if num_videos > 1 else generators[0],
            output_type="latent",
            callback_on_step_end=tick,
        ).frames
        if number:
            # the first step of a call computes what the later ones need
            quickest = min(quickest, *(b - a for a, b in itertools.pairwise(seen)))
    return quickest / num_videos, latents


def speed(at: Measuring) -> None:
    """Seconds of a step: stock, each shortcut by itself, all of them, and several videos at once."""
    alone = ("collapse_cross_attention", "hoist_invariants", "slice_feed_forward", "temporal_conv2d", "channels_last")
    pipe = at.stock(MemoryConfig()).pipe
    base, latents = _timed_steps(pipe, at, 1, 4)
    at.note("speed", "stock", step_s=base, ratio=1.0)
    del pipe
    free()
    exact = SpeedConfig(compile=Compile.off, batch_size=1)
    rows = {"none": OFF, **{name: replace(OFF, **{name: True}) for name in alone}, "exact": exact}
    for name, settings in rows.items():
        engine = at.engine(MemoryConfig(), settings)
        step_s, mine = _timed_steps(engine.pipe, at, 1, 4)
        apart = float((mine - latents).abs().max() / latents.abs().max())
        at.note("speed", name, step_s=step_s, ratio=base / step_s, latents_apart=apart)
        if name == "exact":
            for size in (2, 4):
                step_s, _ = _timed_steps(engine.pipe, at, size, 3)
                at.note("speed", f"exact, {size} at once", step_s=step_s, ratio=base / step_s)
        del engine
        free()


def compiled(at: Measuring) -> None:
    """Seconds of a step with the UNet compiled by regions, and what compiling takes."""
    plain = at.engine(MemoryConfig(), SpeedConfig(batch_size=1, compile=Compile.off))
    engine = at.engine(MemoryConfig(), SpeedConfig(batch_size=1, compile=Compile.regional))
    start = time.perf_counter()
    _timed_steps(engine.pipe, at, 1, 2)
    compile_s = time.perf_counter() - start
    at.note("compiled", "compiling", seconds=compile_s)
    for number in range(2):
        eager, latents = _timed_steps(plain.pipe, at, 1, 4)
        step_s, mine = _timed_steps(engine.pipe, at, 1, 4)
        apart = float((mine - latents).abs().max() / latents.abs().max())
        at.note("compiled", f"regional, {number}", step_s=step_s, ratio=eager / step_s, latents_apart=apart)


def precision(at: Measuring) -> None:
    """How far float16 is from float32 in stock, and the engine from stock in both: the engine's part is rounding."""
    import torch

    cell = replace(CELL, decode_chunk_size=4)
    pixels: dict[str, Any] = {}
    for dtype in (Dtype.float16, Dtype.float32):
        model = replace(at.model, dtype=dtype, num_frames=8)
        other = Measuring(at.folder, model, at.out)
        stock = other.stock(MemoryConfig())
        pixels[f"stock {dtype.value}"] = stock.generate(at.picture, cell, 7).pixels
        del stock
        free()
        engine = other.engine(MemoryConfig(), SpeedConfig(compile=Compile.off, batch_size=1))
        engine.keep_pixels = True
        pixels[f"ours {dtype.value}"] = engine.generate(at.picture, cell, 7).pixels
        del engine
        free()
    at.note("precision", "TF32", matmul=torch.backends.cuda.matmul.allow_tf32, cudnn=torch.backends.cudnn.allow_tf32)
    for one, two in (
        ("stock float16", "stock float32"),
        ("ours float16", "stock float32"),
        ("ours float16", "stock float16"),
        ("ours float32", "stock float32"),
    ):
        at.note("precision", f"{one} against {two}", **difference(pixels[one], pixels[two]))


def _hold(free_bytes: int, held: Any, done: Any) -> None:
    """Take of the GPU what is above `free_bytes`, until told that it's enough; in a process of its own."""
    import torch

    torch.zeros(1, device="cuda")
    taken = [torch.empty(max(0, torch.cuda.mem_get_info()[0] - free_bytes), dtype=torch.uint8, device="cuda")]
    held.set()
    done.wait()
    del taken


@contextmanager
def short_of_memory(free_gib: float) -> Iterator[None]:
    """Leave so much of the GPU free for this process."""
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(int(free_gib * GIB), held, done))
    holder.start()
    try:
        if not held.wait(60):
            raise RuntimeError("the process that takes memory didn't start")
        yield
    finally:
        done.set()
        holder.join()


def short(at: Measuring) -> None:
    """What `memory=auto` takes where little is free, and how an engine that was told `fast` steps down."""
    import torch

    from svd_batch.errors import UserError

    cell = replace(CELL, decode_chunk_size=2)
    exact = SpeedConfig(compile=Compile.off, batch_size=1)
    reference = None
    for free_gib in FREE_GIB:
        with short_of_memory(free_gib):
            before = torch.cuda.mem_get_info()[0] / GIB
            try:
                engine = at.engine(MemoryConfig(auto=True), exact, heaviest=cell)
            except UserError as error:
                at.note("short", f"{free_gib:g} GiB free", free_gib=before, refused=str(error))
                continue
            engine.keep_pixels = True
            made = engine.generate(at.picture, cell, 7)
            reference = made.pixels if reference is None else reference
            at.note(
                "short",
                f"{free_gib:g} GiB free",
                free_gib=before,
                took=made.memory_profile,
                peak_gib=made.peak_memory_bytes / GIB,
                reserved_gib=torch.cuda.max_memory_reserved() / GIB,
                notes=engine.notes,
                **difference(made.pixels, reference),
            )
            del engine
        free()
    with short_of_memory(7.0):
        engine = at.engine(PROFILES["fast"], exact)
        engine.keep_pixels = True
        made = engine.generate(at.picture, cell, 7)
        at.note(
            "short",
            "fast with 7 GiB free",
            ended_with=made.memory_profile,
            peak_gib=made.peak_memory_bytes / GIB,
            notes=engine.notes,
            **difference(made.pixels, reference),
        )
        del engine
    free()


SECTIONS: dict[str, Callable[[Measuring], None]] = {
    "memory": memory,
    "speed": speed,
    "short": short,
    "precision": precision,
    "compiled": compiled,
}


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of an SVD checkpoint with fp16 weights")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which, by comma (default: %(default)s)")
    parser.add_argument("--rows", help="of `memory`, by comma: stock, or names of profiles (default: all)")
    parser.add_argument("--out", type=Path, default=Path("on_gpu.json"), help="where the figures go")
    parser.add_argument("--fixed-segments", action="store_true", help="leave torch's allocator as it is by default")
    parser.add_argument("--num-frames", type=int, default=25)
    parser.add_argument("--height", type=int, default=576)
    parser.add_argument("--width", type=int, default=1024)
    given = parser.parse_args()
    import diffusers
    import torch

    from svd_batch.engine.machine import grow_gpu_segments

    if not torch.cuda.is_available():
        print("error: torch sees no GPU here", file=sys.stderr)
        return 2
    if not given.fixed_segments:
        grow_gpu_segments()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    size = {"num_frames": given.num_frames, "height": given.height, "width": given.width}
    model = ModelConfig("svd_xt", str(given.checkpoint), None, "fp16", Dtype.float16, **size)
    at = Measuring(given.checkpoint, model, given.out, given.rows.split(",") if given.rows else None)
    at.note(
        "machine",
        "this",
        gpu=torch.cuda.get_device_name(),
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        python=platform.python_version(),
        model={k: v for k, v in asdict(model).items() if k in ("num_frames", "height", "width")},
    )
    failed = False
    for name in given.sections.split(","):
        try:
            SECTIONS[name](at)
        except Exception:  # the other sections are worth having
            failed = True
            traceback.print_exc()
            at.note("failed", name, error=traceback.format_exc(limit=-3))
            free()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
