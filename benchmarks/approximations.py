"""The approximations against the exact result: how much faster each is, and how far from it.

    .venv/bin/python benchmarks/approximations.py
    .venv/bin/python benchmarks/approximations.py --pictures 2 --guidance 3
    .venv/bin/python benchmarks/approximations.py --checkpoint FOLDER --num-frames 14 --height 192 --width 256 \
        --decode-chunk-size 4 --pictures 1 --buckets 127

Clips of the bundled pictures, each made exactly and then with every approximation, in one process. Printed for each as
a row of Markdown: the exact clips' seconds over its own (from the picture to decoded frames); PSNR and SSIM of its
frames against the exact ones, the mean over clips and the worst; its motion over theirs. Of random weights only the
seconds mean anything.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svd_batch.checkpoint import bundled_checkpoint
from svd_batch.config import Dtype, MemoryConfig, ModelConfig, SpeedConfig
from svd_batch.engine.generated import Generated
from svd_batch.engine.pipeline import Engine
from svd_batch.manifest import bundled_manifest
from svd_batch.metrics import Clip, measure
from svd_batch.quality import in_quality
from svd_batch.records import SweepCell
from svd_batch.sweep import with_values


def band(low: float, high: float) -> dict[str, float]:
    return {"guidance_sigma_min": low, "guidance_sigma_max": high}


VARIANTS: dict[str, dict[str, Any]] = {
    "the exact ones again": {},
    "euler, 10 steps (for comparison)": {"num_inference_steps": 10},
    "sampler=ays10": {"sampler": "ays10"},
    **{f"deep_cache_interval={n}": {"deep_cache_interval": n} for n in (2, 3, 5)},
    **{f"guidance in {a:g} <= sigma <= {b:g}": band(a, b) for a, b in ((0.1, 50), (0.3, 50), (1, 10))},
    "model.dtype=bfloat16": {"dtype": Dtype.bfloat16},
    "quality=preview": {"quality": "preview"},
    "quality=draft": {"quality": "draft"},
    "quality=draft model.dtype=bfloat16": {"quality": "draft", "dtype": Dtype.bfloat16},
}


class Engines:
    """One engine for each dtype, loaded when it is first asked for."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.loaded: dict[Dtype, Engine] = {}

    def clip(self, picture: np.ndarray, cell: SweepCell, dtype: Dtype = Dtype.float32) -> Generated:
        """Return a clip with its unrounded pixels; conditioning is computed anew."""
        given = self.arguments
        if dtype not in self.loaded:
            shape = {"num_frames": given.num_frames, "height": given.height, "width": given.width}
            model = ModelConfig(id=str(given.checkpoint), name="benchmark", dtype=dtype, **shape)
            speed = SpeedConfig(reuse_conditioning=False)
            self.loaded[dtype] = Engine(given.checkpoint, model, MemoryConfig(), speed, given.threads)
            self.loaded[dtype].keep_pixels = True
            self.clip(picture, with_values(cell, {"num_inference_steps": 1}), dtype)  # the first call is slower
        return self.loaded[dtype].generate(picture, cell, seed=42)


def changed(cell: SweepCell, changes: dict[str, Any]) -> tuple[SweepCell, Dtype]:
    """Return the cell with a variant's changes, and the dtype to compute it in."""
    values = {k: v for k, v in changes.items() if k not in ("quality", "dtype")}
    return in_quality(with_values(cell, values), changes.get("quality", "final")), changes.get("dtype", Dtype.float32)


def motion_of(made: Generated) -> float:
    """Return a clip's mean optical flow."""
    return measure(Clip(made.frames, playback_fps=7), ["motion"]).values["motion"]


def compare(exact: Generated, made: Generated) -> tuple[float, float, float, float]:
    """Return seconds, PSNR in dB, mean SSIM of the frames, and motion as a share of the exact clip's."""
    assert exact.pixels is not None
    assert made.pixels is not None
    pairs = list(zip(exact.pixels, made.pixels, strict=True))
    is_same = np.array_equal(exact.pixels, made.pixels)
    psnr = np.inf if is_same else peak_signal_noise_ratio(exact.pixels, made.pixels, data_range=1)
    ssim = np.mean([structural_similarity(a, b, channel_axis=2, data_range=1) for a, b in pairs])
    return made.generate_s, float(psnr), float(ssim), motion_of(made) / motion_of(exact)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=bundled_checkpoint())
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--decode-chunk-size", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=1.5, help="at the last frame")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--buckets", type=int, nargs="+", default=[127, 240])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="the variants whose name has one of these in it")
    arguments = parser.parse_args()
    files = sorted(bundled_manifest().parent.glob("*.jpg"))[: arguments.pictures]
    size = (arguments.width, arguments.height)
    pictures = [np.asarray(ImageOps.fit(Image.open(f).convert("RGB"), size, Image.Resampling.LANCZOS)) for f in files]
    variants = {n: v for n, v in VARIANTS.items() if not arguments.only or any(text in n for text in arguments.only)}
    engines, seconds = Engines(arguments), 0.0
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in variants}
    for picture, bucket in itertools.product(pictures, arguments.buckets):
        cell = SweepCell(bucket, 0.02, 7, arguments.steps, 1.0, arguments.guidance, arguments.decode_chunk_size)
        exact = engines.clip(picture, cell)
        seconds += exact.generate_s
        for name, changes in variants.items():
            found[name].append(compare(exact, engines.clip(picture, *changed(cell, changes))))
    num_clips = len(pictures) * len(arguments.buckets)
    print(f"{num_clips} clips each, {arguments.threads} threads; exact {seconds / num_clips:.2f} s a clip\n")
    print("| | speed-up | PSNR, dB (worst) | SSIM (worst) | motion |\n|---|---|---|---|---|")
    for name, rows in found.items():
        spent, psnr, ssim, moved = (np.array(column) for column in zip(*rows, strict=True))
        quality = f"{psnr.mean():.1f} ({psnr.min():.1f}) | {ssim.mean():.4f} ({ssim.min():.4f}) | {moved.mean():.2f}"
        print(f"| `{name}` | {seconds / spent.sum():.2f} | {quality} |")


if __name__ == "__main__":
    main()
