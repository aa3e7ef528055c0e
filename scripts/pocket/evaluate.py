"""What a checkpoint does with its parameters, measured on pictures that training never saw.

Knows pipelines and pictures. Knows nothing of how the checkpoint came to be.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image
from skimage.metrics import structural_similarity

from pocket.architecture import SIZES, load_pipeline
from pocket.data import held_out_pictures, speed_px

BUCKETS = (20, 64, 127, 180, 240)
NOISE_STRENGTHS = (0.02, 0.1, 0.3, 1.0)
DEFAULTS = {
    "num_inference_steps": 25,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 1.5,
    "fps": 7,
    "motion_bucket_id": 127,
    "noise_aug_strength": 0.02,
    "decode_chunk_size": 8,
}
"""The generation settings pocket is meant for."""
BORDER_PX = 6


def generate(pipeline: StableVideoDiffusionPipeline, image: np.ndarray, seed: int, **cell: float) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of one clip of a picture (H, W, 3) uint8; `cell` overrides DEFAULTS."""
    frames = pipeline(
        Image.fromarray(image),
        height=image.shape[0],
        width=image.shape[1],
        generator=torch.manual_seed(seed),
        output_type="np",
        **(DEFAULTS | cell),
    ).frames[0]
    return (frames * 255).round().astype(np.uint8)


def motion_px(frames: np.ndarray) -> float:
    """Mean optical flow in pixels a frame, the border left out. Source: OpenCV's DIS, on luminance."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(0)  # the frames are small
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    inner = slice(BORDER_PX, -BORDER_PX)
    steps = [flow.calc(a, b, None)[inner, inner] for a, b in itertools.pairwise(grey)]
    return float(np.mean([np.linalg.norm(step, axis=-1).mean() for step in steps]))


def similarity(frame: np.ndarray, image: np.ndarray) -> float:
    """SSIM of a frame and the input, 1 when they are the same."""
    return float(structural_similarity(frame, image, channel_axis=2))


@dataclass
class Figures:
    """The measurements of one checkpoint, seeds averaged."""

    motion: dict[str, list[float]] = field(default_factory=dict)
    """Pixels a frame at each of BUCKETS, by picture."""
    likeness: dict[str, list[float]] = field(default_factory=dict)
    """First frame's SSIM at each of NOISE_STRENGTHS, by picture."""
    double_fps: dict[str, float] = field(default_factory=dict)
    """Motion at 14 fps over motion at 7, bucket 127, by picture."""
    clip_s: float = 0.0
    """Median seconds a clip."""

    def lines(self) -> list[str]:
        """The Markdown table of every picture, and the checks below it."""
        buckets = " | ".join(f"bucket {b}" for b in BUCKETS)
        noises = " | ".join(f"SSIM at {s}" for s in NOISE_STRENGTHS)
        rows = [
            f"| picture | {buckets} | {noises} | 14 / 7 fps |",
            "|---" * (len(BUCKETS) + len(NOISE_STRENGTHS) + 2) + "|",
        ]
        for name in self.motion:
            motion = " | ".join(f"{m:.2f}" for m in self.motion[name])
            likeness = " | ".join(f"{s:.2f}" for s in self.likeness[name])
            rows.append(f"| {name} | {motion} | {likeness} | {self.double_fps[name]:.2f} |")
        means = np.mean(list(self.motion.values()), 0), np.mean(list(self.likeness.values()), 0)
        mean_fps = np.mean(list(self.double_fps.values()))
        rows.append("| mean | " + " | ".join(f"{m:.2f}" for m in np.concatenate(means)) + f" | {mean_fps:.2f} |")
        truth = " | ".join(f"{speed_px(b, 7):.2f}" for b in BUCKETS)
        rows.append(f"| true camera | {truth} |" + " |" * len(NOISE_STRENGTHS) + " 0.50 |")
        return [*rows, "", *self._checks(means[1])]

    def _checks(self, likeness: np.ndarray) -> list[str]:
        """One line for each thing the checkpoint is held to."""
        motion = list(self.motion.values())
        rising = sum(bool(np.all(np.diff(m) > 0)) for m in motion)
        falling = sum(bool(np.all(np.diff(s) < 0)) for s in self.likeness.values())
        ratios = [m[-1] / m[0] for m in motion]
        above = sum(s[0] >= 0.75 for s in self.likeness.values())
        return [
            f"- motion rises strictly with motion_bucket_id on {rising} of {len(motion)} pictures",
            f"- most motion over least: {min(ratios):.1f} at least, {np.median(ratios):.1f} as a rule",
            f"- likeness falls strictly with noise_aug_strength on {falling} of {len(motion)} pictures",
            f"- first frame's SSIM at 0.02: {likeness[0]:.2f} on average, 0.75 or more on {above} of {len(motion)}",
            f"- a clip takes {self.clip_s:.1f} s",
        ]


def evaluate(folder: Path, num_pictures: int | None = None, num_seeds: int = 2) -> Figures:
    """The figures of the checkpoint in a folder, on the first pictures of the held-out list."""
    pipeline, figures, seconds = load_pipeline(folder), Figures(), []
    size = SIZES["pocket"]

    def clips(image: np.ndarray, **cell: float) -> list[np.ndarray]:
        results = []
        for seed in range(num_seeds):
            started_at = time.monotonic()
            results.append(generate(pipeline, image, seed, **cell))
            seconds.append(time.monotonic() - started_at)
        return results

    pictures = list(held_out_pictures((size.height, size.width)).items())[:num_pictures]
    for name, image in pictures:
        by_bucket = [clips(image, motion_bucket_id=bucket) for bucket in BUCKETS]
        middle = by_bucket[BUCKETS.index(127)]
        by_noise = [middle, *(clips(image, noise_aug_strength=strength) for strength in NOISE_STRENGTHS[1:])]
        figures.motion[name] = [float(np.mean([motion_px(c) for c in cell])) for cell in by_bucket]
        figures.likeness[name] = [float(np.mean([similarity(c[0], image) for c in cell])) for cell in by_noise]
        slow = np.mean([motion_px(c) for c in clips(image, fps=14)])
        figures.double_fps[name] = float(slow) / figures.motion[name][BUCKETS.index(127)]
        print(f"evaluated {name}", flush=True)
    figures.clip_s = float(np.median(seconds))
    return figures


def sample_sheet(folder: Path) -> np.ndarray:
    """A picture (H, W, 3) uint8: a row for each of four held-out pictures and three buckets, the input and frames."""
    pipeline, size = load_pipeline(folder), SIZES["pocket"]
    pictures = held_out_pictures((size.height, size.width))
    rows = []
    for name, bucket in itertools.product(("camera", "coins", "ihc", "retina"), (20, 127, 240)):
        frames = generate(pipeline, pictures[name], 0, motion_bucket_id=bucket)
        gap = np.full((size.height, 8, 3), 255, np.uint8)
        rows.append(np.hstack([pictures[name], gap, *frames[[0, 2, 4, 7]]]))
    return np.vstack(rows)
