"""How busy the generating actor is on a real run: the share of the time between its first and its last video.

    .venv/bin/python benchmarks/utilisation.py --pictures 25 --keep outputs/utilisation

Runs the bundled checkpoint with its default settings on Ray, one actor, over copies of the bundled pictures, four cells
each. Each row says when its making began (`started_at`), how long that took (`batch_size` times `generate_s`) and how
long CLIP embedded its frames for the metrics (`embed_s`). A video in a lane counts for its share of the cores. What is
left between the first beginning and the last end is idle, at least in part; when nothing at all is made is shown by
where it was: within a picture, or before the next one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from svd_batch.manifest import bundled_manifest, write_manifest
from svd_batch.records import VideoRecord
from svd_batch.store import Store


@dataclass(frozen=True)
class Batch:
    """Videos that were begun at once: a batch, or one in a lane beside others; in seconds since 1970."""

    start: float
    generate_s: float
    embed_s: float
    image_id: str
    num_videos: int
    share: float
    """Of the cores: 1 for a batch."""

    @property
    def end(self) -> float:
        """When the engine, or the lane, was free again."""
        return self.start + self.generate_s + self.embed_s


def batches(records: Iterable[VideoRecord]) -> list[Batch]:
    """Return the batches of one actor, by time; videos with the same beginning were made together."""
    together: dict[str, list[VideoRecord]] = {}
    for record in records:
        assert record.started_at is not None
        together.setdefault(record.started_at, []).append(record)
    found = [
        Batch(
            datetime.fromisoformat(started_at).timestamp(),
            statistics.fmean(video.generate_s for video in videos) * videos[0].batch_size,
            sum(video.embed_s or 0.0 for video in videos),
            videos[0].image_id,
            len(videos),
            len(videos) / videos[0].batch_size,
        )
        for started_at, videos in together.items()
    ]
    return sorted(found, key=lambda batch: batch.start)


def show(found: list[Batch]) -> None:
    """Print the shares of the time and the gaps."""
    whole = max(batch.end for batch in found) - found[0].start
    generating = sum(batch.share * batch.generate_s for batch in found)
    embedding = sum(batch.share * batch.embed_s for batch in found)
    ends = accumulate((batch.end for batch in found), max)
    within, between = [], []
    for (before, after), end in zip(pairwise(found), ends, strict=False):
        (within if before.image_id == after.image_id else between).append(max(0.0, after.start - end))
    print(
        f"videos: {sum(batch.num_videos for batch in found)} in {len(found)} batches, {whole:.1f} s from first to last"
    )
    print(f"busy: {(generating + embedding) / whole:.2%} of it")
    print(f"  generating {generating / whole:.2%}, embedding for the metrics {embedding / whole:.2%}")
    for name, gaps in (("within a picture", within), ("before the next picture", between)):
        if gaps:
            longest = max(gaps)
            print(
                f"idle {name}: {sum(gaps):.2f} s in {len(gaps)} gaps, {sum(gaps) / whole:.2%}; longest {longest:.3f} s"
            )


def make_pictures(folder: Path, number: int) -> Path:
    """Write so many pictures, crops of the bundled ones, and return their manifest."""
    sources = sorted(path for path in bundled_manifest().parent.iterdir() if path.suffix in (".jpg", ".png", ".webp"))
    for i in range(number):
        with Image.open(sources[i % len(sources)]) as picture:
            edge = i // len(sources)
            picture.crop((edge, edge, picture.width, picture.height)).convert("RGB").save(folder / f"{i:03}.png")
    manifest = folder / "pictures.parquet"
    write_manifest(folder, manifest)
    return manifest


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=25)
    parser.add_argument("--keep", type=Path, help="keep the output folder here; one that is there is only read")
    parser.add_argument("overrides", nargs="*", help="further overrides of the job")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        output = arguments.keep or Path(temporary) / "out"
        if not output.exists():
            folder = Path(temporary) / "pictures"
            folder.mkdir()
            manifest = make_pictures(folder, arguments.pictures)
            axes = ["sweep.motion_bucket_id=[20,240]", "sweep.noise_aug_strength=[0.02,0.1]"]
            job = [f"manifest={manifest}", f"output={output}", *axes, *arguments.overrides]
            subprocess.run([sys.executable, "-m", "svd_batch", "run", *job], check=True)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        show(batches(Store(output).records()))
        if arguments.keep:
            print(f"kept: {output}, {pq.read_metadata(output / 'metadata.parquet').num_rows} rows")
        else:
            shutil.rmtree(output)


if __name__ == "__main__":
    main()
