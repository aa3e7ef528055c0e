r"""How many videos a second the job can plan, hand out, commit and count, with an engine that takes a millisecond.

    .venv/bin/python benchmarks/throughput.py --backend serial --pictures 300 --rounds 3
    .venv/bin/python benchmarks/throughput.py --backend ray --pictures 400 --rounds 3 backend.num_actors=2 \
        backend.num_cpus=0.6

The whole command line, with real loading, checking by decoding, hashing, flushing and renaming; the encoder alone is
replaced by a file that it has made before, and the engine does nothing but wait (--encode: neither is so). Videos a
second are counted between the first and the last record. CPU seconds are those of all processes, so 2 cores / (CPU
seconds a video) is what idle ones would reach where no disk is waited for.

Wait five minutes after thousands of files were deleted, as the end of this does: an ext4 without a journal passes over
their inodes one by one at each new file for that long, which took a seventh of the processor. Rounds delete nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]

from builders import without_torch  # noqa: E402

from svd_batch.config import VideoConfig  # noqa: E402
from svd_batch.manifest import bundled_manifest  # noqa: E402
from svd_batch.video import write_video  # noqa: E402

SITE = """
import os, sys
from crash.layer import STAND_INS, _Finder

def stub(module):
    clip = os.environ["SVD_BATCH_BENCHMARK_CLIP"]
    if clip:
        data = open(clip, "rb").read()
        from svd_batch.locations import write_bytes
        module.write_video = lambda path, *arguments, **options: write_bytes(path, data)

def sleep_only(module):
    if not os.environ["SVD_BATCH_BENCHMARK_CLIP"]:
        return
    import numpy as np
    frames = np.zeros((8, 64, 96, 3), np.uint8)
    module.Engine._frames = lambda self, *arguments: frames

sys.meta_path.insert(0, _Finder({"svd_batch.video": stub, "svd_batch.engine.pipeline": sleep_only}, STAND_INS))
"""
SWEEP = ["sweep.motion_bucket_id=[20,60,100,140,180]", "sweep.noise_aug_strength=[0.02,0.05,0.1,0.2,0.3]"]
TICKS = os.sysconf("SC_CLK_TCK")


class CpuTime(threading.Thread):
    """Adds up the CPU seconds of a process and all that descend from it, as seen twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._seconds: dict[int, float] = {pid: 0.0}
        self.ended = threading.Event()

    def run(self) -> None:
        """Look until the end."""
        while not self.ended.wait(0.5):
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
                except OSError:
                    continue
                pid = int(stat.parent.name)
                if pid in self._seconds or int(fields[1]) in self._seconds:
                    self._seconds[pid] = (int(fields[11]) + int(fields[12])) / TICKS

    def total(self) -> float:
        """Return the seconds of all."""
        return sum(self._seconds.values())


def main() -> None:
    """Run and print a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["serial", "ray"], default="serial")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1, help="runs, each into a folder of its own")
    parser.add_argument("--encode", action="store_true", help="encode each video")
    parser.add_argument("--profile", type=Path, help="cProfile's file of the driver, of the last round")
    parser.add_argument("overrides", nargs="*", help="further overrides for the job")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture = bundled_manifest().parent / "chelsea.jpg"
        names = [f"{i}.jpg" for i in range(arguments.pictures)]
        for name in names:
            shutil.copy(picture, folder / name)
        pq.write_table(pa.table({"image_path": names}), folder / "m.parquet")
        write_video(folder / "clip.mp4", np.zeros((8, 64, 96, 3), np.uint8), 7, VideoConfig())
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        for number in range(arguments.rounds):
            measure(arguments, folder, folder / f"out{number}")


def measure(arguments: argparse.Namespace, folder: Path, output: Path) -> None:
    """Run once into a new folder and print a line."""
    environment = without_torch(output, 0.001)
    environment["PYTHONPATH"] = os.pathsep.join([str(folder / "site"), str(ROOT / "scripts"), str(ROOT)])
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of Ray's processes compiles what it imports anew
    environment["SVD_BATCH_BENCHMARK_CLIP"] = "" if arguments.encode else str(folder / "clip.mp4")
    start = ["-m", "cProfile", "-o", str(arguments.profile)] if arguments.profile else []
    more = [f"backend={arguments.backend}", "metrics.names=[]", "check_images=none", *arguments.overrides]
    where = [f"manifest={folder / 'm.parquet'}", f"output={output}"]
    command = [sys.executable, *start, "-m", "svd_batch", "run", *SWEEP, *where, *more]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        cpu = CpuTime(process.pid)
        cpu.start()
        code = process.wait()
        cpu.ended.set()
    moments = pq.read_table(output / "metadata.parquet", columns=["created_at"])["created_at"]
    span = pc.min_max(moments).as_py()
    seconds = (span["max"] - span["min"]).total_seconds()
    print(
        f"{arguments.backend} {' '.join(arguments.overrides)}: exit code {code}, {len(moments)} videos, "
        f"{(len(moments) - 1) / seconds:.0f} a second; {1000 * cpu.total() / len(moments):.2f} ms of CPU a video, "
        f"starting and ending included; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
