"""Whole runs that go wrong, with a stub of an engine: how they end, what they say, what they keep, how they go on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import picture_bytes
from conftest import PATIENCE_S, Cli
from stub_engine import Act, StubEngine
from test_attempts import STICKING, raising

from svd_batch.attempts import AttemptLog
from svd_batch.backends import SerialBackend
from svd_batch.records import SweepCell
from svd_batch.stages import Generate
from svd_batch.store import Store

GRID = ["sweep.motion_bucket_id=[1,2,3]"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture."""
    return write_manifest(tmp_path_factory.mktemp("pictures"), 1)


def write_manifest(folder: Path, num_pictures: int, num_missing: int = 0) -> Path:
    """Write a manifest of pictures that come after some that aren't there."""
    names = [f"missing{i}.png" for i in range(num_missing)] + [f"{i}.png" for i in range(num_pictures)]
    for i, name in enumerate(names[num_missing:]):
        (folder / name).write_bytes(picture_bytes(seed=i))
    pq.write_table(pa.table({"image_path": names}), folder / "m.parquet")
    return folder / "m.parquet"


@pytest.fixture
def run(cli_here: Cli, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`svd-batch run` in this process; `act` is the stub's."""

    def call(*overrides: str, act: Act | None = None, **engine: Any) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr("svd_batch.stages._make_engine", lambda settings: StubEngine(act, **engine))
        return cli_here("run", *arguments(manifest), *overrides)

    return call


def arguments(manifest: Path) -> list[str]:
    return ["backend=serial", f"manifest={manifest}", "output=out", "metrics.names=[]", *GRID]


def done(folder: Path) -> list[int]:
    """Return the motion buckets of the table's rows."""
    return sorted(row["motion_bucket_id"] for row in pq.read_table(folder / "out/metadata.parquet").to_pylist())


def failed(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "out/failures.parquet").to_pylist()
    return rows


# --- processes that die -------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
from stub_engine import StubEngine
from svd_batch import stages
from svd_batch.cli import main

def act(cell):
{act}

stages.PATIENCE_S = {patience}
stages._make_engine = lambda settings: StubEngine(act)
sys.exit(main(sys.argv[1:]))
"""


def command(act: str, words: Sequence[str], patience: float = 10.0) -> list[str]:
    """Return the command of a run whose engine does `act`, a line of Python, to each cell."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), act=f"    {act}", patience=patience)
    return [sys.executable, "-c", script, "run", *words]


def test_a_serial_run_that_an_item_kills_gets_past_it_at_the_fourth_start(tmp_path: Path, manifest: Path) -> None:
    kill = "if cell.motion_bucket_id == 2: os.kill(os.getpid(), signal.SIGKILL)"
    codes = []
    words = [*arguments(manifest), "max_failed_fraction=1"]
    for _ in range(4):
        process = subprocess.run(command(kill, words), cwd=tmp_path, check=False, timeout=PATIENCE_S)
        codes.append(process.returncode)
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert done(tmp_path) == [1, 3]
    assert [(f["stage"], f["error_type"], f["attempts"]) for f in failed(tmp_path)] == [("generate", "ProcessDied", 3)]


def test_retry_failed_gives_what_was_set_aside_new_attempts(run: Run, tmp_path: Path) -> None:
    run("sweep.motion_bucket_id=[1,2]")
    store = Store(tmp_path / "out")
    (video_id,) = [r.video_id for r in store.records() if r.motion_bucket_id == 2]
    store.forget(video_id)
    for _ in range(3):
        AttemptLog(store).begin(video_id)
    assert run("sweep.motion_bucket_id=[1,2]").returncode == 3  # one picture, and it has failed
    assert [f["error_type"] for f in failed(tmp_path)] == ["ProcessDied"]
    assert run("sweep.motion_bucket_id=[1,2]", "retry_failed=true").returncode == 0
    assert (done(tmp_path), failed(tmp_path)) == ([1, 2], [])


def test_an_error_that_condemns_the_process_is_a_sentence_with_exit_code_4_and_the_next_run_goes_on(
    run: Run, tmp_path: Path
) -> None:
    first = run(act=raising(STICKING, 2))
    assert first.returncode == 4
    assert first.stderr.splitlines()[-1].startswith("error: generate: RuntimeError: CUDA error: an illegal memory")
    assert "the same command goes on in a new one" in first.stderr
    assert done(tmp_path) == [1]
    assert run().returncode == 0
    assert (done(tmp_path), failed(tmp_path)) == ([1, 2, 3], [])


def test_attempts_count_over_runs_until_the_item_succeeds(run: Run, tmp_path: Path) -> None:
    broken = raising(ValueError("no"), 2)
    for attempts in (1, 2, 3):
        run("retry_failed=true", act=broken)
        assert [(f["stage"], f["error_message"], f["attempts"]) for f in failed(tmp_path)] == [
            ("generate", "no", attempts)
        ]
    assert run("retry_failed=true").returncode == 0
    assert (done(tmp_path), failed(tmp_path)) == ([1, 2, 3], [])


# --- too many failures --------------------------------------------------------------------------------------------


def test_a_run_that_fails_at_everything_stops_after_twenty_pictures_and_names_the_error(
    run: Run, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, 30)
    broken = raising(ValueError("the model is broken"), 1, 2, 3)
    ended = run(f"manifest={manifest}", act=broken)
    assert ended.returncode == 3
    assert "stopped: the first 20 pictures all failed; 0.png: generate: the model is broken" in ended.stdout
    assert "max_failed_fraction=1 goes on whatever fails" in ended.stdout
    assert len({f["image_id"] for f in failed(tmp_path)}) in (20, 21)  # and perhaps what was in the making


def test_with_max_failed_fraction_1_a_run_goes_on_whatever_fails(run: Run, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 1, num_missing=22)
    ended = run(f"manifest={manifest}", "max_failed_fraction=1", "check_images=none")
    assert (ended.returncode, done(tmp_path)) == (0, [1, 2, 3])


def test_a_run_stops_as_soon_as_more_pictures_failed_than_may_and_keeps_the_rest(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_manifest(folder, 40)
    names = ["0.png", *(f"gone{i}.png" for i in range(30)), *(f"{i}.png" for i in range(1, 40))]
    pq.write_table(pa.table({"image_path": names}), folder / "m.parquet")
    ended = run(f"manifest={folder / 'm.parquet'}", "max_failed_fraction=0.3", "check_images=none")
    assert ended.returncode == 3
    assert "stopped: 22 of 70 pictures failed already; most often gone0.png: load: no such file" in ended.stdout
    assert done(tmp_path) == [1, 2, 3]


def test_few_pictures_are_all_tried(run: Run, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 1, num_missing=18)
    ended = run(f"manifest={manifest}", "check_images=none")
    assert "too many failed: 18 of 19 pictures" in ended.stdout
    assert (ended.returncode, done(tmp_path)) == (3, [1, 2, 3])


# --- results that get lost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "said"), [(-1, "2 results"), (1, "4 results")])
def test_a_backend_that_loses_or_doubles_a_result_fails_the_run(
    change: int, said: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SerialBackend.run

    def lossy(self: SerialBackend, *rest: Any) -> Iterator[Any]:
        results = list(whole(self, *rest))
        yield from results[:change] if change < 0 else [*results, results[0]]

    monkeypatch.setattr(SerialBackend, "run", lossy)
    ended = run()
    assert ended.returncode == 4
    assert f"error: backend: {said} came back of 3 planned videos" in ended.stderr
    assert done(tmp_path) == [1, 2, 3]  # the tables come from the records


# --- stopping -----------------------------------------------------------------------------------------------------

SLOW = "time.sleep(60) if cell.motion_bucket_id == 2 else None"


def start(tmp_path: Path, words: Sequence[str], act: str = SLOW, patience: float = 1.0) -> subprocess.Popen[str]:
    """Start a run in a process group and a temporary folder of its own; return it once its second video is begun."""
    (tmp_path / "t").mkdir(exist_ok=True)
    process = subprocess.Popen(
        command(act, words, patience),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "t")},
    )
    store = Store(tmp_path / "out")
    while not (store.done_ids() and AttemptLog(store).in_the_making()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    return process


def group_is_gone(process: subprocess.Popen[str]) -> bool:
    """Return whether no process of a run's group is alive any more, a moment after its end."""
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_drops_what_takes_too_long_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path, manifest: Path
) -> None:
    process = start(tmp_path, arguments(manifest))
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - began < 30
    assert process.returncode == 130
    assert "warning: stopping; what is finished will be kept. Once more stops at once" in err
    assert "interrupted: everything finished is kept; the same command goes on from here" in out
    assert "Traceback" not in err
    assert done(tmp_path) == [1]
    assert group_is_gone(process)
    assert list((tmp_path / "t").iterdir()) == []
    assert list((tmp_path / "out/.svd_batch/attempts").iterdir()) == []  # stopping is no item's fault


def test_what_is_nearly_done_is_finished_first(tmp_path: Path, manifest: Path) -> None:
    process = start(tmp_path, arguments(manifest), "time.sleep(1.5) if cell.motion_bucket_id == 2 else None", 10.0)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, done(tmp_path)) == (130, [1, 2])


def test_a_second_signal_stops_at_once(tmp_path: Path, manifest: Path) -> None:
    process = start(tmp_path, arguments(manifest), patience=30.0)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # it waits for its video
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert "Traceback" not in err
    assert group_is_gone(process)
    assert list((tmp_path / "t").iterdir()) == []


def test_two_signals_in_the_same_moment_are_one(tmp_path: Path, manifest: Path) -> None:
    process = start(tmp_path, arguments(manifest))
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "the same command goes on from here" in out


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a real file system of a given size, or changes the size of that which is mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        mounted = os.path.ismount(folder)
        words = ["mount", "-o", f"remount,{options}" if mounted else options]
        ended = subprocess.run(
            [*words, *([] if mounted else ["-t", "tmpfs", "tmpfs"]), folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            pytest.skip(f"this user can't mount a file system here: {ended.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


def noise(num_frames: int = 8) -> Any:
    """Return frames that no encoder makes small."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (num_frames, 128, 192, 3), dtype=np.uint8)


def test_a_disk_that_fills_up_stops_the_run_with_a_sentence_and_the_run_goes_on_when_there_is_room(
    run: Run, small_disk: Callable[[str], Path], tmp_path: Path, cli_here: Cli
) -> None:
    disk = small_disk("size=1m")
    words = [f"output={disk / 'out'}", "sweep.motion_bucket_id=0:9:1", "model.height=32", "model.width=32"]
    ended = run(*words, frames=noise())
    assert ended.returncode == 2
    assert f"error: {disk / 'out'}" in ended.stderr
    assert "No space left on device; what is finished is kept, and the same command goes on" in ended.stderr
    assert "Traceback" not in ended.stderr
    kept = Store(disk / "out").done_ids()
    assert 0 < len(kept) < 10
    assert Store(disk / "out").failures() == []  # no item's fault
    small_disk("size=16m")
    assert run(*words, frames=noise()).returncode == 0
    assert len(done(disk)) == 10
    assert kept <= Store(disk / "out").done_ids()
    assert cli_here("verify", disk / "out").returncode == 0


def test_an_output_that_turns_read_only_stops_the_run_with_a_sentence(
    run: Run, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=16m")

    def turn(cell: SweepCell) -> None:
        if cell.motion_bucket_id == 2:
            time.sleep(1)  # the first video is written meanwhile
            for options in (["--bind", disk], ["-o", "remount,bind,ro"]):  # over it: the log's file is open below
                subprocess.run(["mount", *options, disk], check=True)

    ended = run(f"output={disk / 'out'}", act=turn)
    subprocess.run(["umount", disk], check=True)
    assert ended.returncode == 2
    assert "Read-only file system; what is finished is kept, and the same command goes on" in ended.stderr
    shutil.rmtree(disk / "out/.svd_batch/lease")  # it could not be given back, and its process lives on: this one
    assert run(f"output={disk / 'out'}").returncode == 0
    assert done(disk) == [1, 2, 3]


def test_an_output_on_a_read_only_disk_is_refused_in_a_sentence(run: Run, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=16m")
    assert run(f"output={disk / 'out'}").returncode == 0
    small_disk("ro")
    ended = run(f"output={disk / 'out'}", "num_seeds=2")
    assert ended.returncode == 2
    assert "Read-only file system" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_disk_that_vanishes_stops_the_run_with_a_sentence_and_nothing_is_written_in_its_place(
    run: Run, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=16m")

    def vanish(cell: SweepCell) -> None:
        if cell.motion_bucket_id == 2:
            subprocess.run(["umount", "-l", disk], check=True)

    ended = run(f"output={disk / 'out'}", act=vanish)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "is gone" in ended.stderr
    assert list(disk.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_refused_in_a_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def refuse(path: Any, *rest: Any, **options: Any) -> None:  # root, as whom tests may run, may write everywhere
        if str(path).startswith(("out", str(tmp_path / "out"))):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        mkdir(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    ended = run()
    assert ended.returncode == 2
    assert "out can't be made: Permission denied" in ended.stderr


def test_a_plan_that_the_disk_has_no_room_for_is_refused_before_anything_is_made(
    run: Run, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=1m")
    ended = run(f"output={disk / 'out'}", "num_seeds=1000")
    assert ended.returncode == 2
    assert "3000 videos take about" in ended.stderr
    assert "free; free some, give another output, or make fewer videos" in ended.stderr
    assert list(disk.iterdir()) == []


def test_what_a_video_takes_is_measured_on_those_that_are_there(
    run: Run, small_disk: Callable[[str], Path], manifest: Path, cli_here: Cli
) -> None:
    disk = small_disk("size=4m")
    run(f"output={disk / 'out'}", frames=noise())
    words = [*arguments(manifest), f"output={disk / 'out'}", "num_seeds=20"]
    said = cli_here("plan", *words).stdout
    assert "(measured on 3 videos there)" in said
    assert "57 videos take about" in said
    assert cli_here("run", *words).returncode == 2


# --- what a stage that is closed leaves ---------------------------------------------------------------------------


def test_a_stage_is_not_waited_for_longer_than_its_patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import threading

    from test_attempts import PICTURE, unit

    from svd_batch.config import MemoryConfig, ModelConfig, VideoConfig
    from svd_batch.load import LoadedUnit
    from svd_batch.settings import GenerateSettings

    monkeypatch.setattr("svd_batch.stages.PATIENCE_S", 0.05)
    Store(tmp_path).create()
    begun, go_on = threading.Event(), threading.Event()
    engine: Any = StubEngine(lambda cell: (begun.set(), go_on.wait())[0])
    settings = GenerateSettings(str(tmp_path), ModelConfig(), "r", MemoryConfig(), VideoConfig(), "f")
    stage = Generate(settings, lambda: engine)
    results = stage(LoadedUnit(unit(1), PICTURE, "", 0.0))
    threading.Thread(target=lambda: next(results, None), daemon=True).start()
    begun.wait()
    assert stage.close() is False
    assert engine.is_cancelled.is_set()
    go_on.set()


def test_no_temporary_folder_of_hydras_is_left(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    run()
    assert list((tmp_path / "t").iterdir()) == []
