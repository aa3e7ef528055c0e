"""The main job against the plain diffusers loop: same checkpoint, pictures, cells and mp4 settings, in one run.

    .venv/bin/python benchmarks/main_job.py --rounds 3

The two take turns. Printed for each: seconds from process start to the last file, and videos a minute between the first
and the last file; then both as ratios, round by round, since a machine's speed drifts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from svd_batch.checkpoint import bundled_checkpoint
from svd_batch.manifest import bundled_manifest


def timed(command: list[str], videos: Path) -> tuple[float, float]:
    """Return (seconds from process start to the last file, videos a minute between first and last file)."""
    start = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    written = sorted(path.stat().st_mtime for path in videos.rglob("*.mp4"))
    return written[-1] - start, 60 * (len(written) - 1) / (written[-1] - written[0])


def main() -> None:
    """Run both in turn and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--buckets", type=int, nargs="+", default=[20, 127, 240])
    parser.add_argument("--noises", type=float, nargs="+", default=[0.02])
    parser.add_argument("overrides", nargs="*", help="further overrides for the job, e.g. backend.num_actors=2")
    arguments = parser.parse_args()
    buckets, noises = arguments.buckets, arguments.noises
    loop = Path(__file__).with_name("plain_loop.py")
    ratios: list[tuple[float, float]] = []
    for turn in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours, plain = Path(folder) / "ours", Path(folder) / "plain"
            axes = [f"sweep.motion_bucket_id={buckets}", f"sweep.noise_aug_strength={noises}"]
            job = [sys.executable, "-m", "svd_batch", "run", *axes, f"output={ours}", *arguments.overrides]
            pictures = str(bundled_manifest().parent)
            lists = ["--buckets", *map(str, buckets), "--noises", *map(str, noises)]
            stock = [sys.executable, str(loop), str(bundled_checkpoint()), pictures, str(plain), *lists]
            ours_s, ours_rate = timed(job, ours)
            plain_s, plain_rate = timed(stock, plain)
        ratios.append((plain_s / ours_s, ours_rate / plain_rate))
        print(
            f"round {turn}: svd_batch {ours_s:.1f} s, {ours_rate:.2f} videos/min; plain loop {plain_s:.1f} s, "
            f"{plain_rate:.2f} videos/min; speed-up {ratios[-1][0]:.2f} whole, {ratios[-1][1]:.2f} first to last",
            flush=True,
        )
    for name, values in zip(("whole process", "first to last video"), zip(*ratios, strict=True), strict=True):
        print(f"{name}: median {statistics.median(values):.2f}×, {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main()
