"""What the metrics of one clip take, on one CPU core, at SVD-XT's size and at any other.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/metrics.py --num-frames 25 --height 576 --width 1024

The CLIP ones get made-up embeddings: what they take is the image encoder's pass, which --encoder CHECKPOINT times.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from svd_batch.metrics import METRICS, Clip, Embeddings, measure

PUBLISHED_S = 30.0
"""A clip of SVD-XT on a good GPU, as published; the metrics are to take less than a twentieth."""


def make_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    """Return a clip of a textured picture that pans and zooms, with a patch that moves by itself, and noise."""
    random = np.random.default_rng(0)
    levels = [random.standard_normal((height // 2**i + 2, width // 2**i + 2, 3)).astype(np.float32) for i in range(6)]
    picture = sum(2.0**i * cv2.resize(level, (width, height)) for i, level in enumerate(levels))
    picture = 255 * (picture - picture.min()) / (picture.max() - picture.min())
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        zoom = cv2.getRotationMatrix2D((width / 2, height / 2), 0.1 * t, 1 + 0.004 * t)
        zoom[:, 2] += (0.003 * width * t, 0.001 * height * t)
        frame = cv2.warpAffine(picture, zoom, (width, height), borderMode=cv2.BORDER_REFLECT)
        x = int(width * (0.2 + 0.01 * t))
        frame[height // 3 : height // 2, x : x + width // 5] = picture[: height // 2 - height // 3, : width // 5]
        frames[t] = np.clip(frame + random.normal(0, 1.5, frame.shape), 0, 255).astype(np.uint8)
    return frames


def time_metrics(frames: np.ndarray, rounds: int) -> tuple[float, dict[str, float]]:
    """Return the least seconds of all metrics together, and of each with what it alone needs."""
    embeddings = Embeddings(np.ones(1024, np.float32), np.ones((len(frames), 1024), np.float32))

    def seconds(names: list[str]) -> float:
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            measured = measure(Clip(frames, 7, frames[0], embeddings), names)
            taken.append(time.perf_counter() - start)
            assert not measured.errors, measured.errors
        return min(taken)

    return seconds(list(METRICS)), {name: seconds([name]) for name in METRICS}


def time_encoder(folder: Path, frames: np.ndarray, rounds: int) -> float:
    """Return the least seconds that a checkpoint's image encoder takes for the picture and all frames."""
    import torch

    from svd_batch.config import ModelConfig
    from svd_batch.engine.embedding import ImageEncoder

    torch.set_num_threads(1)
    encoder, taken = ImageEncoder(folder, ModelConfig()), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        encoder.embed([frames[0], *frames])
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-frames", type=int, default=25)
    parser.add_argument("--height", type=int, default=576)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", type=Path, metavar="CHECKPOINT", help="time this checkpoint's image encoder too")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    frames = make_frames(arguments.num_frames, arguments.height, arguments.width)
    together, alone = time_metrics(frames, arguments.rounds)
    print(
        f"{arguments.num_frames} frames of {arguments.height}x{arguments.width}, one thread, the least of "
        f"{arguments.rounds} rounds"
    )
    for name, taken in sorted(alone.items(), key=lambda item: -item[1]):
        print(f"  {name:<24}{taken:8.3f} s alone")
    print(f"  {'all together':<24}{together:8.3f} s, {together / PUBLISHED_S:.1%} of {PUBLISHED_S:g} s")
    if arguments.encoder:
        print(f"  {'image encoder':<24}{time_encoder(arguments.encoder, frames, arguments.rounds):8.3f} s, one thread")


if __name__ == "__main__":
    main()
