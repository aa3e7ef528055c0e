"""A million pictures x 25 cells: seconds and peak memory of planning, of resuming, of the tables and of the report.

    .venv/bin/python benchmarks/scale.py --folder /some/disk make new plan resume
    .venv/bin/python benchmarks/scale.py --folder /tmp/small --pictures 40000 make resume tables report

`make` writes a manifest and an output folder with records of all videos but one in 250, as parts; the folder stays for
the other steps, of which each is a process of its own: the whole command, imports too. `new` plans for an empty
folder, `plan` for that one. `resume` runs the command with the crash test's engine, and kills it once the first new
video is committed. `tables` writes metadata.parquet.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]

from builders import make_record, without_torch  # noqa: E402

from svd_batch import cli, ids, run  # noqa: E402
from svd_batch.config import Config, folder_settings  # noqa: E402
from svd_batch.job import prepare  # noqa: E402
from svd_batch.manifest import bundled_manifest  # noqa: E402
from svd_batch.parts import PART_ROWS  # noqa: E402
from svd_batch.plan import Request  # noqa: E402
from svd_batch.record_table import to_table  # noqa: E402
from svd_batch.records import CELL_FIELDS, ImageRecord  # noqa: E402
from svd_batch.store import Store, file_sha256  # noqa: E402

CELLS = 25
SWEEP = ["sweep.motion_bucket_id=[20,60,100,140,180]", "sweep.noise_aug_strength=[0.02,0.05,0.1,0.2,0.3]"]
SPARSE = 500
"""One video in so many is lacking here and there, the last of a picture, and as many at the manifest's end."""


def path_of(number: int) -> str:
    """Return a picture's path in the manifest."""
    return f"pictures/{number // 1000:04}/picture_{number:07}.jpg"


def num_done(number: int, num_pictures: int) -> int:
    """Return how many videos of a picture have a record."""
    if number >= num_pictures - num_pictures // SPARSE:
        return 0
    return CELLS - (number % (SPARSE // CELLS) == 0)


def command(verb: str, manifest: Path, output: Path, *more: str) -> list[str]:
    """Return a command line of svd_batch."""
    where = [f"manifest={manifest}", f"output={output}", "check_images=none"]
    return [sys.executable, "-m", "svd_batch", verb, *SWEEP, *where, *more]


def asked(manifest: Path, output: Path) -> tuple[Request, dict[str, object], str]:
    """Return what the command asks for of each picture, the folder's settings and its fingerprint."""
    configs: list[Config] = []
    run.run = lambda config, *_, **__: configs.append(config) or 0  # type: ignore[func-returns-value,assignment]
    cli.main(command("run", manifest, output)[3:])
    job = prepare(configs[0])
    return job.plan.request, folder_settings(configs[0], job.revision), job.fingerprint


def make(folder: Path, num_pictures: int) -> None:
    """Write manifest, pictures of what is to do, run.json and the parts."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    picture = folder / "picture.jpg"
    shutil.copy(bundled_manifest().parent / "chelsea.jpg", picture)
    pq.write_table(pa.table({"image_path": [path_of(i) for i in range(num_pictures)]}), folder / "manifest.parquet")
    for i in range(num_pictures):
        if num_done(i, num_pictures) < CELLS:
            (folder / path_of(i)).parent.mkdir(parents=True, exist_ok=True)
            os.link(picture, folder / path_of(i))
    pq.write_table(pa.table({"image_path": [str(picture)]}), folder / "one.parquet")
    request, settings, fingerprint = asked(folder / "one.parquet", folder / "out")
    store = Store(folder / "out")
    store.create()
    store.write_run({"format": 1, "settings": settings, "manifest": [str(folder / "manifest.parquet")], "runs": []})
    size = PART_ROWS // CELLS
    starts = range(0, num_pictures, size)
    write = partial(write_part, store, request, fingerprint, file_sha256(picture), num_pictures)
    with ProcessPoolExecutor() as pool:
        total = sum(pool.map(write, starts, chunksize=8))
    store.write_table(
        pa.table({"image_id": [ids.image_id_of_path(path_of(i)) for i in range(num_pictures)]}),
        store.plan_dir / "images.parquet",
    )
    print(f"{num_pictures} pictures, {total} of {num_pictures * CELLS} videos done, {len(starts)} parts", flush=True)


def write_part(
    store: Store, request: Request, fingerprint: str, picture_sha256: str, num_pictures: int, start: int
) -> int:
    """Write the records of some pictures as a part; return how many there are."""
    rows: dict[str, list[object]] = {name: [] for name in ("video_id", "file_name", "image_id", "image_path", "seed")}
    rows |= {name: [] for name in CELL_FIELDS}
    size = PART_ROWS // CELLS
    for number in range(start, min(start + size, num_pictures)):
        path = path_of(number)
        image = ImageRecord(ids.image_id_of_path(path), path, path)
        for video in request.videos(image)[: num_done(number, num_pictures)]:
            values = (video.video_id, ids.video_path(video.video_id, "mp4"), image.image_id, path, video.seed)
            for name, value in zip(rows, (*values, *vars(video.cell).values()), strict=True):
                rows[name].append(value)
    num = len(rows["seed"])
    same = to_table([make_record(image_sha256=picture_sha256, fingerprint=fingerprint, metrics={"motion": 1.5})])
    columns = {field.name: pa.repeat(same[field.name][0], num) for field in same.schema}
    columns |= {name: pa.array(values, same.schema.field(name).type) for name, values in rows.items()}
    columns["video_sha256"] = pa.array([os.urandom(32).hex() for _ in range(num)])
    columns["generate_s"] = pa.array([1 + i * 0.001234567 for i in range(num)])
    if num:
        store.write_table(pa.table(columns), store.parts.folder / f"{start // size + 1:06}.parquet")
    return num


def measured(arguments: list[str], environment: dict[str, str]) -> tuple[float, float, float, str]:
    """Return (seconds, CPU seconds, peak MiB, what was printed) of a process."""
    start = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        printed = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed


def resumed(folder: Path) -> tuple[float, float, float, str]:
    """Return (seconds, CPU seconds, peak MiB, what there is) from the start of a run to its first new video."""
    output = folder / "out"
    environment = {**without_torch(output, 0.001)}
    overrides = ["backend=serial", "metrics.names=[]"]
    before = set(records(output))
    start = time.perf_counter()
    arguments = command("run", folder / "manifest.parquet", output, *overrides)
    with subprocess.Popen(arguments, env=environment, cwd=ROOT, start_new_session=True) as process:
        while not set(records(output)) - before:
            if process.poll() is not None:
                raise SystemExit(f"the run ended with {process.returncode}")
            time.sleep(0.2)
        seconds = time.perf_counter() - start
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        ticks = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
        process.send_signal(signal.SIGKILL)
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    cpu_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return seconds, cpu_s, int(peak[1]) / 1024 if peak else 0.0, "first new video committed"


def records(output: Path) -> Iterator[str]:
    """Yield the names of records that have files of their own."""
    return (path.name for path in output.glob(".svd_batch/records/??/*.json"))


TABLES = (
    "import sys; from pathlib import Path; from svd_batch import dataset; from svd_batch.store import Store;"
    "print(dataset.compact(Store(Path(sys.argv[1]))))"
)


def main() -> None:
    """Do the steps and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("steps", nargs="+", choices=["make", "new", "plan", "resume", "tables", "report"])
    arguments = parser.parse_args()
    folder, environment = arguments.folder.resolve(), {**os.environ, "PYTHONPATH": str(ROOT)}
    manifest, output = folder / "manifest.parquet", folder / "out"
    commands = {
        "new": command("plan", manifest, folder / "empty"),
        "plan": command("plan", manifest, output),
        "tables": [sys.executable, "-c", TABLES, str(output)],
        "report": [sys.executable, "-m", "svd_batch", "report", str(output), "-o", str(folder / "report.html")],
    }
    for step in arguments.steps:
        if step == "make":
            make(folder, arguments.pictures)
            continue
        measure = partial(resumed, folder) if step == "resume" else partial(measured, commands[step], environment)
        seconds, cpu_s, mebibytes, printed = measure()
        load, first = os.getloadavg()[0], printed.splitlines()[0] if printed else ""
        print(
            f"{step}: {seconds:.1f} s ({cpu_s:.1f} s of CPU, load {load:.1f}), {mebibytes:.0f} MiB; {first}", flush=True
        )


if __name__ == "__main__":
    main()
