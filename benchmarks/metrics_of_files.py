"""How much metrics of the video files (`score`) differ from those of the frames before encoding, over a finished run.

    .venv/bin/python -m svd_batch run +sweep=motion backend=serial output=outputs/lossy
    .venv/bin/python benchmarks/metrics_of_files.py outputs/lossy

The folder is copied, the copy scored anew, and the two compared clip by clip. The spread, for judging the differences
by, is what lies between the tenth and the ninetieth hundredth of the clips' own values.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from svd_batch.metrics import METRICS  # noqa: E402


def columns_of(folder: Path, source: str) -> dict[str, np.ndarray]:
    """Return the metrics of a folder's videos, by video_id, each measured on `source`."""
    table = pq.read_table(folder / "metadata.parquet").sort_by("video_id")
    found = set(table["metrics_source"].to_pylist())
    if found != {source}:
        raise SystemExit(f"{folder}: metrics are of {', '.join(sorted(map(str, found)))}, not of {source} alone")
    return {name: np.array([math.nan if v is None else v for v in table[name].to_pylist()], float) for name in METRICS}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a finished run with all metrics, measured before encoding")
    arguments = parser.parse_args()
    frames = columns_of(arguments.output, "frames")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"
        shutil.copytree(arguments.output, copy)
        command = [sys.executable, "-m", "svd_batch", "score", str(copy), "--force"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
        file = columns_of(copy, "file")
    print(f"{len(frames['motion'])} clips")
    print("| metric | median of frames | file - frames, median | 10 % to 90 % | largest | median in % of the spread |")
    print("|---|---|---|---|---|---|")
    for name, metric in METRICS.items():
        both = np.isfinite(frames[name]) & np.isfinite(file[name])
        before, change = frames[name][both], (file[name] - frames[name])[both]
        if metric.is_flag:
            print(f"| `{name}` | {before.mean():.0%} true | {int((change != 0).sum())} of {len(change)} differ | | | |")
            continue
        low, middle, high = np.quantile(change, [0.1, 0.5, 0.9])
        spread = float(np.subtract(*np.quantile(before, [0.9, 0.1])))
        part = f"{middle / spread:+.1%}" if spread else "–"
        largest = change[np.abs(change).argmax()]
        figures = f"{np.median(before):.3g} | {middle:+.3g} | {low:+.3g} to {high:+.3g} | {largest:+.3g}"
        print(f"| `{name}` | {figures} | {part} |")


if __name__ == "__main__":
    main()
