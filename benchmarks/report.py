"""Time, memory and size of `report` over a made-up folder of many videos.

    .venv/bin/python benchmarks/report.py --videos 1000 --size 1024 576
    .venv/bin/python benchmarks/report.py --videos 100000 --no-clips

Every video is a link to one real clip of 25 frames; numbers and ids are random. Each report runs in a process of its
own, first without posters and then again with them there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from svd_batch import ids, manifest
from svd_batch.config import VideoConfig
from svd_batch.store import Store
from svd_batch.video import write_video

METRICS = (
    *("motion", "motion_top5", "motion_fraction", "motion_top5_fraction", "camera_motion", "object_motion", "flicker"),
    *("smoothness", "likeness", "likeness_last", "psnr_first", "psnr_last", "clip_likeness", "clip_consistency"),
    *("sharpness", "brightness_drift", "contrast_drift", "saturation_drift", "loop_closure"),
)
SECONDS = ("load_s", "generate_s", "write_s", "condition_s", "denoise_s", "decode_s", "encode_s", "commit_s")
MEASURE = (
    "import re, sys, time; from pathlib import Path; start = time.perf_counter();"
    "from svd_batch.report import write_report; path = write_report(Path(sys.argv[1]));"
    "peak_kib = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1];"
    "print(time.perf_counter() - start, int(peak_kib) / 1024, path.stat().st_size)"
)


def columns(num_pictures: int, num_motion: int, num_noise: int) -> dict[str, Any]:
    """Return the columns of metadata.parquet."""
    random = np.random.default_rng(0)
    n = num_pictures * num_motion * num_noise
    picture = np.repeat(np.arange(num_pictures), num_motion * num_noise)
    video_id = [f"{i:020x}" for i in random.integers(0, 2**60, n)]
    sha256 = [random.bytes(32).hex() for _ in range(num_pictures)]
    same: dict[str, Any] = {
        **{"fps": 7, "playback_fps": 7, "num_frames": 25, "height": 576, "width": 1024, "num_inference_steps": 25},
        **{"min_guidance_scale": 1.0, "max_guidance_scale": 3.0, "decode_chunk_size": 8, "sampler": "euler"},
        **{"guidance_sigma_min": 0.0, "guidance_sigma_max": 1000.0, "deep_cache_interval": 1, "approximations": None},
        **{"quality": "final", "replicate": 0, "model_id": "org/svd", "model_revision": "f" * 40, "dtype": "float16"},
        **{"fingerprint": "0" * 12, "device_name": "NVIDIA A100", "torch_threads": 8, "batch_size": 1},
        **{"memory_profile": "fast", "diffusers_version": "0.39.0", "torch_version": "2.13.0"},
        "svd_batch_version": "0.1.0",
    }
    return {
        "file_name": [ids.video_path(i, "mp4") for i in video_id],
        "video_id": video_id,
        "image_id": [f"{i:016x}" for i in picture],
        "image_path": [f"pictures/{i:06}.jpg" for i in picture],
        "image_sha256": [sha256[i] for i in picture],
        "motion_bucket_id": np.tile(np.repeat(np.arange(num_motion) * 10, num_noise), num_pictures),
        "noise_aug_strength": np.tile(np.round(np.arange(num_noise) * 0.02, 3), num_pictures * num_motion),
        "seed": random.integers(0, 2**32, num_pictures)[picture],
        **{name: [value] * n for name, value in same.items()},
        "num_bytes": random.integers(100_000, 900_000, n),
        "video_sha256": [random.bytes(32).hex() for _ in range(n)],
        **{name: random.gamma(4, 8, n).round(6) for name in SECONDS},
        "peak_memory_bytes": random.integers(2**33, 2**34, n),
        "created_at": pa.array(1_790_000_000_000 + np.arange(n) * 30_123, pa.timestamp("ms", "UTC")),
        **{name: random.random(n) for name in METRICS},
        "is_frozen": random.random(n) < 0.01,
        "is_broken": random.random(n) < 0.001,
        "caption": [f"a caption of some words for picture number {i}, as manifests have them" for i in picture],
    }


def make_folder(root: Path, num_videos: int, size: tuple[int, int], clips: bool) -> None:
    """Make an output folder of pictures with 5 x 5 cells each."""
    store = Store(root)
    store.create()
    settings = {"fit": "crop", "video.codec": "h264", "model.variant": "fp16"}
    run = {"format": 1, "settings": settings, "runs": [], "manifest": [str(root / "m.parquet")]}
    store.run_json.write_text(json.dumps(run))
    found = columns(max(1, num_videos // 25), 5, 5)
    pq.write_table(pa.table(found), store.metadata)
    picture = manifest.bundled_manifest().parent / "chelsea.jpg"
    images = {"image_id": list(dict.fromkeys(found["image_id"]))}
    pq.write_table(pa.table({**images, "image_path": [str(picture)] * len(images["image_id"])}), root / "m.parquet")
    if clips:
        y, x = np.mgrid[: size[1], : size[0]]
        frames = [np.stack([x + 9 * t, y - 5 * t, x + y], axis=-1) % 256 for t in range(25)]
        write_video(root / "clip.mp4", np.stack(frames).astype(np.uint8), 7, VideoConfig())
        for name in found["file_name"]:
            (root / name).parent.mkdir(exist_ok=True)
            os.link(root / "clip.mp4", root / name)


def main() -> None:
    """Print a line a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 576), help="width and height of the clips")
    parser.add_argument("--no-clips", action="store_true", help="the table alone")
    parser.add_argument("--keep", type=Path, help="make the folder here and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary) / "out"
        make_folder(root, arguments.videos, tuple(arguments.size), not arguments.no_clips)
        for turn in ("first", "again"):
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, str(root)], capture_output=True, text=True, check=True
            )
            seconds, megabytes, size = map(float, done.stdout.split())
            print(f"{arguments.videos} videos, {turn}: {seconds:.2f} s, {megabytes:.0f} MiB, page {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
