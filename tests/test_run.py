"""The main job from the command line: what is made, what a second run does, what is refused, how it ends."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import run_here, without_torch
from conftest import PATIENCE_S, REAL_ENGINE, tiny_overrides
from test_secrets import TOKEN, files_with

from svd_batch import cli as command_line
from svd_batch.backends import _short_temp_folder
from svd_batch.store import Store

GRID = ["+sweep=motion", "sweep.motion_bucket_id=[20,240]", "sweep.noise_aug_strength=[0.02,0.3]"]

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("no_torch")


@pytest.fixture
def run(
    tmp_path: Path, tiny: list[str], pets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """`svd-batch run` in this process with the three pictures and the serial backend, and without a model."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str, verb: str = "run", manifest: Path = pets) -> tuple[int, str, str]:
        code = command_line.main([verb, *job(tiny, manifest), *overrides])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def job(tiny: list[str], manifest: Path) -> list[str]:
    """Return the arguments that all of these jobs share."""
    return ["backend=serial", *tiny, f"manifest={manifest}", "output=out"]


Finished = tuple[Path, str]
"""The folder of a finished job, only to be read, and what the job printed."""


@pytest.fixture(scope="module")
def one_cell(no_torch: None, tiny_checkpoint: Path, pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A job of one cell: 3 videos."""
    folder = tmp_path_factory.mktemp("one_cell") / "out"
    return folder, run_here("run", *job(tiny_overrides(tiny_checkpoint), pets), f"output={folder}").out


@pytest.fixture(scope="module")
def grid(tiny_checkpoint: Path, pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A job over GRID with the engine itself: 12 videos."""
    folder = tmp_path_factory.mktemp("grid") / "out"
    arguments = [*job(tiny_overrides(tiny_checkpoint), pets), *GRID, f"output={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svd_batch.stages._make_engine", REAL_ENGINE)
        return folder, run_here("run", *arguments).out


@pytest.fixture
def one_cell_copied(one_cell: Finished, tmp_path: Path) -> Path:
    """A copy of `one_cell`, where `run` goes on."""
    return Path(shutil.copytree(one_cell[0], tmp_path / "out"))


@pytest.fixture
def grid_copied(grid: Finished, tmp_path: Path) -> Path:
    """A copy of `grid`, where `run` goes on."""
    return Path(shutil.copytree(grid[0], tmp_path / "out"))


def rows(folder: Path) -> list[dict[str, object]]:
    table: list[dict[str, object]] = pq.read_table(folder / "metadata.parquet").to_pylist()
    return table


def mtimes(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("videos/*/*")}


def test_every_picture_gets_every_cell_and_each_video_one_row(grid: Finished) -> None:
    folder, out = grid
    table = rows(folder)
    assert "3 pictures × 4 cells = 12 videos" in out
    assert len({(r["image_path"], r["motion_bucket_id"], r["noise_aug_strength"]) for r in table}) == len(table) == 12
    assert all((folder / str(r["file_name"])).is_file() for r in table)


def test_the_output_passes_verify_and_holds_a_report_a_card_and_the_config(grid: Finished) -> None:
    out, _ = grid
    assert command_line.main(["verify", str(out)]) == 0
    assert (out / "report.html").is_file()
    assert (out / "README.md").is_file()
    assert "motion_bucket_id" in (out / ".svd_batch/config.yaml").read_text()
    assert not list((out / ".svd_batch/tmp").iterdir())


def test_a_row_tells_what_each_stage_took_and_the_parts_make_up_the_whole(grid: Finished) -> None:
    for row in rows(grid[0]):
        seconds = {k: v for k, v in row.items() if k.endswith("_s") and isinstance(v, float)}
        assert min(seconds.values()) > 0
        assert seconds["condition_s"] + seconds["denoise_s"] + seconds["decode_s"] <= seconds["generate_s"]
        assert seconds["encode_s"] + seconds["commit_s"] == pytest.approx(seconds["write_s"], abs=1e-5)


def test_the_same_command_again_finds_nothing_to_do(run: Run, grid_copied: Path) -> None:
    before = mtimes(grid_copied)
    code, out, _ = run(*GRID)
    assert code == 0
    assert "12 of 12 done, nothing to do" in out
    assert mtimes(grid_copied) == before


def test_a_larger_grid_makes_only_the_new_cells(run: Run, grid_copied: Path) -> None:
    before = mtimes(grid_copied)
    _, out, _ = run(*GRID, "sweep.motion_bucket_id=[20,127,240]")
    after = mtimes(grid_copied)
    assert "12 done, 6 new" in out
    assert len(after) == 18
    assert {name: after[name] for name in before} == before


def test_more_seeds_make_only_the_new_replicates(run: Run, one_cell_copied: Path) -> None:
    before = mtimes(one_cell_copied)
    _, out, _ = run("num_seeds=2")
    after = mtimes(one_cell_copied)
    assert "3 done, 3 new" in out
    assert {name: after[name] for name in before} == before
    assert sorted({str(r["replicate"]) for r in rows(one_cell_copied)}) == ["0", "1"]


def test_a_longer_manifest_makes_only_the_new_pictures_and_keeps_the_old_captions(
    run: Run, tmp_path: Path, pictures: Path
) -> None:
    def manifest(names: list[str], file: str) -> Path:
        table = pa.table({"image_path": [str(pictures / n) for n in names], "caption": [f"of {n}" for n in names]})
        pq.write_table(table, tmp_path / file)
        return tmp_path / file

    run(manifest=manifest(["a.png", "b.jpg"], "short.parquet"))
    _, out, _ = run(manifest=manifest(["b.jpg", "c.webp"], "other.parquet"))
    captions = {str(r["image_path"])[-6:].lstrip("/"): r["caption"] for r in rows(tmp_path / "out")}
    assert "1 done, 1 new" in out
    assert captions == {"a.png": "of a.png", "b.jpg": "of b.jpg", "c.webp": "of c.webp"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("seed=43", "was made with seed=42; you asked for seed=43. Use output=… for a new folder"),
        ("model.dtype=bfloat16", "was made with model.dtype=float32; you asked for model.dtype=bfloat16"),
        ("model.height=64", "was made with model.height=32; you asked for model.height=64"),
        ("model.num_frames=2", "was made with model.num_frames=3; you asked for model.num_frames=2"),
        ("fit=pad", "was made with fit=crop; you asked for fit=pad"),
        ("video=gif", "was made with video.codec=h264, video.quality=6.5; you asked for video.codec=gif"),
        ("model.id=pocket", "you asked for model.id=pocket"),
    ],
)
def test_settings_that_one_folder_may_not_mix_are_refused_with_both_values(
    change: str, sentence: str, run: Run, one_cell_copied: Path
) -> None:
    before = mtimes(one_cell_copied)
    code, _, err = run(change)
    assert code == 2
    assert sentence in err
    assert mtimes(one_cell_copied) == before


def test_a_bad_picture_is_a_row_in_the_failures_and_the_rest_is_made(run: Run, tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(pictures, folder)
    (folder / "notes.jpg").write_text("milk, eggs")
    names = ["a.png", "notes.jpg", "b.jpg", "missing.png"]
    pq.write_table(pa.table({"image_path": names}), folder / "m.parquet")
    code, out, err = run(manifest=folder / "m.parquet")
    failures = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert code == 0
    assert [(f["image_path"], f["stage"], f["attempts"]) for f in sorted(failures, key=lambda f: f["image_path"])] == [
        ("missing.png", "load", 1),
        ("notes.jpg", "load", 1),
    ]
    assert "notes.jpg will fail: not a picture" in err
    assert re.search(r"failures: 2 in .*, of 2 pictures; (missing.png: load: no such|notes.jpg: load: not a)", out)
    assert sorted(str(r["image_path"]) for r in rows(tmp_path / "out")) == ["a.png", "b.jpg"]


def test_failures_are_left_alone_until_retry_failed_and_then_forgotten_when_they_succeed(
    run: Run, tmp_path: Path, pictures: Path
) -> None:
    pq.write_table(pa.table({"image_path": ["late.png", str(pictures / "a.png")]}), tmp_path / "m.parquet")
    run(manifest=tmp_path / "m.parquet")
    shutil.copy(pictures / "a.png", tmp_path / "late.png")
    _, left, _ = run(manifest=tmp_path / "m.parquet")
    code, _, _ = run("retry_failed=true", manifest=tmp_path / "m.parquet")
    assert "1 failed earlier and are left" in left
    assert code == 0
    assert len(rows(tmp_path / "out")) == 2
    assert pq.read_table(tmp_path / "out/failures.parquet").num_rows == 0


def test_more_failures_than_allowed_end_with_exit_code_3(run: Run, tmp_path: Path, pictures: Path) -> None:
    names = [str(pictures / "a.png"), "x.png", "y.png"]
    pq.write_table(pa.table({"image_path": names}), tmp_path / "m.parquet")
    code, out, _ = run(manifest=tmp_path / "m.parquet")
    assert code == 3
    assert "too many failed: 2 of 3 pictures, more than max_failed_fraction=0.5" in out
    assert len(rows(tmp_path / "out")) == 1
    assert run("max_failed_fraction=0.7", manifest=tmp_path / "m.parquet")[0] == 0


def test_a_picture_that_has_changed_since_its_first_video_is_refused(run: Run, tmp_path: Path, pictures: Path) -> None:
    shutil.copy(pictures / "a.png", tmp_path / "x.png")
    pq.write_table(pa.table({"image_path": ["x.png", str(pictures / "b.jpg")]}), tmp_path / "m.parquet")
    run(manifest=tmp_path / "m.parquet")
    shutil.copy(pictures / "c.webp", tmp_path / "x.png")
    run("sweep.fps=[7,14]", manifest=tmp_path / "m.parquet")
    failures = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert [f["image_path"] for f in failures] == ["x.png"]
    assert "the picture has changed" in failures[0]["error_message"]


def test_columns_named_like_cell_fields_fix_them_for_their_row(run: Run, tmp_path: Path, pictures: Path) -> None:
    table = {"image_path": [str(pictures / "a.png"), str(pictures / "b.jpg")], "motion_bucket_id": [99, None]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    _, out, _ = run("sweep.motion_bucket_id=[20,240]", manifest=tmp_path / "m.parquet")
    assert "= 3 videos" in out
    assert sorted(int(str(r["motion_bucket_id"])) for r in rows(tmp_path / "out")) == [20, 99, 240]


def test_listed_seeds_are_used_as_they_are(run: Run, tmp_path: Path) -> None:
    run("seeds=[42,7]")
    assert sorted({int(str(r["seed"])) for r in rows(tmp_path / "out")}) == [7, 42]
    assert len(rows(tmp_path / "out")) == 6


@pytest.mark.parametrize(("video", "suffix"), [("gif", "gif"), ("webp", "webp"), ("ffv1", "mkv")])
def test_other_codecs_make_files_that_verify(video: str, suffix: str, run: Run, tmp_path: Path) -> None:
    assert run(f"video={video}")[0] == 0
    assert {p.suffix for p in tmp_path.glob("out/videos/*/*")} == {f".{suffix}"}
    assert command_line.main(["verify", str(tmp_path / "out")]) == 0


def test_a_page_that_can_not_be_made_is_a_warning_and_the_run_is_finished(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(root: Path, *, by_run: bool) -> Path:
        raise ValueError("too many bins")

    monkeypatch.setattr("svd_batch.report.write_report", fail)
    code, out, err = run()
    assert (code, len(rows(tmp_path / "out"))) == (0, 3)
    assert "warning: report: the page can't be made: ValueError: too many bins; videos and tables are whole" in err
    assert "table:" in out
    assert "report:" not in out


def test_plan_counts_and_touches_nothing(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*GRID, verb="plan")
    assert code == 0
    assert "to do:        12" in out
    assert "0 will fail" in out
    assert not (tmp_path / "out").exists()


def test_plan_knows_what_is_done_and_how_long_the_rest_takes(run: Run, one_cell_copied: Path) -> None:
    _, out, _ = run("sweep.motion_bucket_id=[127,240]", verb="plan")
    assert "already done: 3" in out
    assert "to do:        3" in out
    assert "s a video, measured on" in out


def test_plan_lists_the_pictures_that_will_fail_when_told_to_open_all(run: Run, tmp_path: Path, pictures: Path) -> None:
    names = [str(pictures / "a.png"), "gone.png"]
    pq.write_table(pa.table({"image_path": names}), tmp_path / "m.parquet")
    _, every, _ = run("check_images=all", verb="plan", manifest=tmp_path / "m.parquet")
    _, none, _ = run("check_images=none", verb="plan", manifest=tmp_path / "m.parquet")
    assert "gone.png: no such file: gone.png" in every
    assert "gone.png" not in none


def test_a_folder_of_something_else_is_not_written_to(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    code, _, err = run()
    assert code == 2
    assert "is not empty and was not made by svd_batch" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_users_own_folder_of_sweeps_is_found(run: Run, tmp_path: Path) -> None:
    (tmp_path / "conf/sweep").mkdir(parents=True)
    (tmp_path / "conf/sweep/mine.yaml").write_text("fps: [6, 12]\n")
    code, out, _ = run("--config-dir", str(tmp_path / "conf"), "+sweep=mine")
    assert code == 0
    assert "3 pictures × 2 cells" in out


def test_multirun_makes_one_output_for_each_job(
    tiny: list[str], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "--multirun", "backend=serial", *tiny, f"manifest={pets}", "fit=crop,pad"]
    assert command_line.main(arguments) == 0
    made = {p.name: pq.read_table(p / "metadata.parquet").num_rows for p in (tmp_path / "outputs").iterdir()}
    assert made == {"pets-fit_crop": 3, "pets-fit_pad": 3}


def test_hydra_leaves_nothing_of_its_own_behind(run: Run, tmp_path: Path) -> None:
    run()
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


# --- on Ray -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_ray(tiny_checkpoint: Path, pets: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A job on Ray over GRID in a process of its own: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("on_ray")
    command = on_ray_command(tiny_overrides(tiny_checkpoint), pets, "memory=auto")
    environment = {**os.environ, "HF_TOKEN": TOKEN}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder / "out", out=done.stdout, err=done.stderr)


def on_ray_command(tiny: list[str], manifest: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "svd_batch", "run", *job(tiny, manifest), "backend=ray", *GRID, *overrides]


def test_the_job_on_ray_shows_our_lines_only_and_keeps_the_logs(on_ray: SimpleNamespace) -> None:
    heads = [re.split("[: =]", line)[0] for line in on_ray.out.splitlines()[1:]]
    assert heads == ["memory", "videos", "table", "report"]
    assert all("videos, 0 failed" in line for line in on_ray.err.splitlines())
    assert len(rows(on_ray.folder)) == 12
    assert list((on_ray.folder / ".svd_batch/logs/ray").glob("*"))
    assert "Dataset" in next((on_ray.folder / ".svd_batch/logs").glob("run-*.log")).read_text()


def test_no_log_of_rays_holds_the_hubs_token(on_ray: SimpleNamespace) -> None:
    assert files_with([TOKEN], on_ray.folder) == []


def test_a_run_tells_on_ray_too_which_profile_auto_took(on_ray: SimpleNamespace) -> None:
    assert on_ray.out.count("memory=auto took fast: it needs about") == 1
    assert {row["memory_profile"] for row in rows(on_ray.folder)} == {"fast"}


def wait_for_a_video(process: subprocess.Popen[Any], folder: Path) -> None:
    """Return as soon as a job has committed its first video."""
    store = Store(folder)
    while not store.done_ids():
        assert process.poll() is None
        time.sleep(0.05)


def test_an_interrupted_run_exits_with_130_keeps_what_is_done_and_goes_on(
    tmp_path: Path, tiny_checkpoint: Path, pets: Path, run: Run
) -> None:
    tiny = tiny_overrides(tiny_checkpoint)
    command = on_ray_command(tiny, pets)
    slow = without_torch(tmp_path / "out", video_s=2)
    process = subprocess.Popen(
        command, cwd=tmp_path, env=slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_a_video(process, tmp_path / "out")
    begun = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)  # SIGTERM: test_an_interrupted_serial_run_has_every_finished_video_in_its_table
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert begun
    assert not psutil.wait_procs(begun, timeout=30)[1]
    assert not list(Path(_short_temp_folder()).glob(f"svdb-{process.pid}-*"))
    assert list((tmp_path / "out/.svd_batch/attempts").iterdir()) == []
    assert "the same command goes on from here" in out
    kept = mtimes(tmp_path / "out")
    assert 1 <= len(rows(tmp_path / "out")) == len(kept) < 12
    code, out, _ = run(*tiny, *GRID)
    assert code == 0
    assert f"{len(kept)} done, {12 - len(kept)} new" in out
    assert {name: mtimes(tmp_path / "out")[name] for name in kept} == kept


def test_a_second_signal_stops_a_run_on_ray_at_once_and_with_it_all_of_rays_processes(
    tmp_path: Path, tiny_checkpoint: Path, pets: Path
) -> None:
    command = on_ray_command(tiny_overrides(tiny_checkpoint), pets)
    slow = without_torch(tmp_path / "out", video_s=4)
    process = subprocess.Popen(
        command, cwd=tmp_path, env=slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_a_video(process, tmp_path / "out")
    begun = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert begun
    assert not psutil.wait_procs(begun, timeout=90)[1]  # an agent that is calling the gone head does so for 60 s


def test_a_killed_driver_loses_nothing_that_was_committed(
    tmp_path: Path, tiny_checkpoint: Path, pets: Path, run: Run
) -> None:
    tiny = tiny_overrides(tiny_checkpoint)
    command = on_ray_command(tiny, pets)
    slow = without_torch(tmp_path / "out", video_s=2)
    process = subprocess.Popen(
        command, cwd=tmp_path, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    wait_for_a_video(process, tmp_path / "out")
    committed = Store(tmp_path / "out").done_ids()
    process.kill()
    process.wait()
    assert committed <= Store(tmp_path / "out").done_ids()
    assert run(*tiny, *GRID)[0] == 0
    assert len(rows(tmp_path / "out")) == 12
    assert command_line.main(["verify", str(tmp_path / "out")]) == 0


# --- what is kept of a run, and where -----------------------------------------------------------------------------


def test_run_json_tells_every_run_with_its_command(run: Run, one_cell_copied: Path) -> None:
    run("num_seeds=2")
    runs = json.loads((one_cell_copied / ".svd_batch/run.json").read_text())["runs"]
    assert [r["num_todo"] for r in runs] == [3, 3]
    assert "num_seeds=2" in runs[1]["command"]


def test_a_first_try_that_made_nothing_binds_nobody(
    real_engine: None, run: Run, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "mine")
    config = tmp_path / "mine/unet/config.json"
    right = config.read_text()
    config.write_text(json.dumps(json.loads(right) | {"layers_per_block": 2}))
    assert run(f"model.id={tmp_path / 'mine'}")[0] == 2
    config.write_text(right)
    assert run(f"model.id={tmp_path / 'mine'}")[0] == 0


def test_a_checkpoint_is_the_same_from_wherever_it_is_named(
    run: Run, one_cell_copied: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_checkpoint.parent)
    code, out, _ = run(f"model.id={tiny_checkpoint.name}", f"output={one_cell_copied}")
    assert (code, "nothing to do" in out) == (0, True)


def test_plan_refuses_the_outputs_that_run_refuses(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    assert "is a file; give a folder" in run(verb="plan")[2]
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("")
    assert "was not made by svd_batch" in run(verb="plan")[2]


def test_a_home_folder_is_found_though_the_shell_left_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run("output='~/pets'")[0] == 0
    assert (tmp_path / "home/pets/metadata.parquet").is_file()


def test_a_disk_that_refuses_is_one_sentence(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Store, path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "_write_text", full)
    code, _, err = run()
    assert (code, err) == (
        2,
        "error: No space left on device; what is finished is kept, and the same command goes on once that is mended\n",
    )


def test_videos_that_take_too_long_are_failures_that_say_so(real_engine: None, run: Run, tmp_path: Path) -> None:
    code, out, _ = run("item_timeout_s=0.001", "generation.num_inference_steps=40")
    failures = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert code == 3
    assert {(f["stage"], f["error_type"]) for f in failures} == {("generate", "ItemTimeoutError")}
    assert "took longer than item_timeout_s=0.001: " in out
    assert run("generation.num_inference_steps=40", "retry_failed=true")[0] == 0
    assert len(rows(tmp_path / "out")) == 3


def test_an_interrupted_serial_run_has_every_finished_video_in_its_table(
    tmp_path: Path, tiny_checkpoint: Path, pets: Path
) -> None:
    overrides, slow = tiny_overrides(tiny_checkpoint), without_torch(tmp_path / "out", video_s=0.2)
    arguments = ["backend=serial", *overrides, f"manifest={pets}", "output=out", "sweep.motion_bucket_id=0:1000:4"]
    command = [sys.executable, "-m", "svd_batch", "run", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_a_video(process, tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 130
    assert {row["video_id"] for row in rows(tmp_path / "out")} == Store(tmp_path / "out").done_ids()


def test_an_interruption_ends_a_multirun(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("svd_batch.run.run", lambda *_, **__: 130)
    assert command_line.main(["run", "backend=serial", *tiny, "--multirun", "seed=1,2"]) == 130
    assert capfd.readouterr().out.count("bundled pictures") == 1


def test_the_jobs_of_a_multirun_are_named_by_what_varies_and_leave_nothing_of_hydras(
    tmp_path: Path, tiny: list[str], pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = ["sweep.noise_aug_strength=[0.02, 0.1]", "sweep.motion_bucket_id=0:20:20", "generation.fps=5,7"]
    assert command_line.main(["run", "backend=serial", *tiny, f"manifest={pets}", "--multirun", *grid]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["outputs"]
    assert {p.name for p in (tmp_path / "outputs").iterdir()} == {"pets-generation.fps_5", "pets-generation.fps_7"}


def test_a_run_tells_which_profile_auto_took_and_why_and_its_rows_tell_it_too(
    real_engine: None, run: Run, tmp_path: Path
) -> None:
    code, out, _ = run("memory=auto")
    assert code == 0
    assert out.count("memory=auto took fast: it needs about") == 1
    assert {row["memory_profile"] for row in rows(tmp_path / "out")} == {"fast"}
