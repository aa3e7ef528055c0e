"""Seconds and memory of the analysis over a large table.

    .venv/bin/python benchmarks/analysis.py
    .venv/bin/python benchmarks/analysis.py --pictures 111 --steps 30 30
    .venv/bin/python benchmarks/analysis.py --pictures 2000 --steps 5 5 2 --missing 0

Writes a metadata.parquet with every metric column that the report knows into a folder of its own: pictures times the
steps of up to four axes, a part of the rows left out at random as failures would. Each metric is the picture's level, a
part for each axis and chance. Then reads it, analyses all metrics, writes the JSON and looks one target up, and prints
the seconds of each and the peak memory of the process, the making of the table included.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from svd_batch.analysis import Bound, Target, analyse, describe, read_videos, recommend, to_json
from svd_batch.analysis.names import METRIC_NAMES
from svd_batch.records import SweepCell

AXES = {"motion_bucket_id": (0, 255), "noise_aug_strength": (0.0, 0.3), "max_guidance_scale": (1, 6), "fps": (4, 60)}


def make_table(pictures: int, steps: list[int], missing: float) -> pa.Table:
    """Return the table."""
    rng = np.random.default_rng(0)
    picture, *places = (a.ravel() for a in np.indices((pictures, *steps)))
    kept = rng.random(len(picture)) >= missing
    picture, places = picture[kept], [p[kept] for p in places]
    count = len(picture)
    cell = dataclasses.asdict(SweepCell(127, 0.02, 7, 25, 1.0, 3.0, 8))
    columns = {
        "video_id": [f"{i:020x}" for i in range(count)],
        "image_id": [f"{i:020x}" for i in picture],
        **{name: [value] * count for name, value in cell.items()},
        "fingerprint": ["0123456789ab"] * count,
        "quality": ["final"] * count,
        "generate_s": rng.gamma(9.0, 3.0, count),
    }
    for (name, (low, high)), place, number in zip(AXES.items(), places, steps, strict=False):
        values = low + (high - low) * np.arange(number) / max(number - 1, 1)
        whole = name in ("motion_bucket_id", "fps")
        columns[name] = (np.round(values).astype(int) if whole else np.round(values, 4))[place]
    for name in METRIC_NAMES:
        effects = sum(rng.normal(0, 0.3, n)[p] for n, p in zip(steps, places, strict=True))
        value = 2 + rng.normal(0, 0.5, pictures)[picture] + effects + rng.normal(0, 0.1, count)
        columns[name] = value > 3 if describe(name).is_flag else value
    return pa.table(columns)


def main() -> None:
    """Print one line of seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 10], help="steps of each axis, up to four axes")
    parser.add_argument("--missing", type=float, default=0.05, help="part of the rows that is left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(arguments.pictures, arguments.steps, arguments.missing)
        pq.write_table(table, Path(folder) / "metadata.parquet")
        marks = [time.perf_counter()]
        videos = read_videos([Path(folder)])
        marks.append(time.perf_counter())
        analysis = analyse(videos)
        marks.append(time.perf_counter())
        text = to_json(analysis)
        marks.append(time.perf_counter())
        recommend(videos, Target("motion", 2.0), [Bound("likeness", at_least=1.5)])
        marks.append(time.perf_counter())
    seconds = ", ".join(
        f"{name} {b - a:.2f} s"
        for name, a, b in zip(("read", "analyse", "JSON", "recommend"), marks, marks[1:], strict=False)
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(videos)} rows, {math.prod(arguments.steps)} cells, {len(analysis.metrics)} metrics: {seconds};", end=" "
    )
    print(f"whole {marks[-1] - marks[0]:.2f} s, JSON {len(text) / 2**20:.2f} MiB, peak memory {memory:.2f} GiB")


if __name__ == "__main__":
    main()
