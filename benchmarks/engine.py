"""The engine against stock diffusers, clip by clip in turn, in one process: a grid over bundled pictures.

    .venv/bin/python benchmarks/engine.py --each
    .venv/bin/python benchmarks/engine.py --checkpoint FOLDER --num-frames 14 --height 192 --width 256 --steps 4

Printed for each set of shortcuts: stock's time over ours, the whole grid and cell by cell, and the largest
difference of pixels on [0, 1]. Every clip runs from the picture to decoded frames. Both have as many threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image, ImageOps

from svd_batch.checkpoint import bundled_checkpoint
from svd_batch.config import MemoryConfig, ModelConfig, SpeedConfig
from svd_batch.engine.pipeline import Engine
from svd_batch.manifest import bundled_manifest

NAMES = [field.name for field in dataclasses.fields(SpeedConfig)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--decode-chunk-size", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--buckets", type=int, nargs="+", default=[20, 127, 240])
    parser.add_argument("--noises", type=float, nargs="+", default=[0.02, 0.1, 0.3])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--each", action="store_true", help="measure each shortcut alone as well")
    parser.add_argument("--memory-split", action="store_true", help="ours with guidance in two halves")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = (arguments.height, arguments.width)
    model = ModelConfig(
        id=str(arguments.checkpoint), num_frames=arguments.num_frames, height=size[0], width=size[1], name="benchmark"
    )
    sets = [[name] for name in NAMES] if arguments.each else []
    engines = {
        "+".join(names) if names != NAMES else "all": Engine(
            arguments.checkpoint,
            model,
            MemoryConfig(split_guidance=arguments.memory_split),
            SpeedConfig(**{name: name in names for name in NAMES}),
            arguments.threads,
        ).pipe
        for names in [*sets, NAMES]
    }
    stock = StableVideoDiffusionPipeline.from_pretrained(
        arguments.checkpoint, variant="fp16", torch_dtype=torch.float32, use_safetensors=True
    )
    stock.set_progress_bar_config(disable=True)
    files = sorted(bundled_manifest().parent.glob("*.jpg"))[: arguments.pictures]
    pictures = [ImageOps.fit(Image.open(f).convert("RGB"), size[::-1], Image.Resampling.LANCZOS) for f in files]
    settings = {
        "height": size[0],
        "width": size[1],
        "num_frames": arguments.num_frames,
        "num_inference_steps": arguments.steps,
        "decode_chunk_size": arguments.decode_chunk_size,
        "max_guidance_scale": 1.5,
        "output_type": "np",
    }

    def clip(pipe: Any, picture: Image.Image, cell: dict[str, float]) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        frames = pipe(picture, generator=torch.manual_seed(42), **settings, **cell).frames[0]
        return time.perf_counter() - start, frames

    for pipe in (stock, *engines.values()):  # the first call of each is slower
        pipe(pictures[0], generator=torch.manual_seed(0), **(settings | {"num_inference_steps": 1}))
        if getattr(pipe, "known", None) is not None:
            pipe.enable_conditioning_reuse()
    stock_times: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in engines}
    differences = dict.fromkeys(engines, 0.0)
    for picture, bucket, noise in itertools.product(pictures, arguments.buckets, arguments.noises):
        cell = {"motion_bucket_id": bucket, "noise_aug_strength": noise}
        seconds, true = clip(stock, picture, cell)
        stock_times.append(seconds)
        for name, pipe in engines.items():
            seconds, frames = clip(pipe, picture, cell)
            times[name].append(seconds)
            differences[name] = max(differences[name], float(np.abs(frames - true).max()))
    stock_s = statistics.median(stock_times)
    print(f"{len(stock_times)} clips each, {arguments.threads} threads; stock {stock_s:.2f} s a clip")
    for name in engines:
        ratios = [a / b for a, b in zip(stock_times, times[name], strict=True)]
        whole = sum(stock_times) / sum(times[name])
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        clip_s, worst = statistics.median(times[name]), f"{differences[name]:.1e}"
        print(f"{name}: {whole:.2f}× ({spread}), {clip_s:.2f} s a clip, {worst} apart")


if __name__ == "__main__":
    main()
