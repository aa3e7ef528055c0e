"""`status`: what a folder tells of its run while it goes on, after it, and after a kill. It writes nothing."""

from __future__ import annotations

import html
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from builders import make_output, without_torch
from conftest import PATIENCE_S, Cli
from stub_engine import StubEngine
from test_attempts import raising
from test_faults import write_manifest

from svd_batch import lease
from svd_batch.lease import _path, _State
from svd_batch.owner import Owner
from svd_batch.report import write_report
from svd_batch.status import lines, status
from svd_batch.store import Store


def arguments(manifest: Path, output: Path) -> list[str]:
    return ["backend=serial", f"manifest={manifest}", f"output={output}", "metrics.names=[]"]


@pytest.fixture
def finished(cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of three pictures, of which one is missing and one video of another fails."""
    monkeypatch.setattr("svd_batch.stages._make_engine", lambda s: StubEngine(raising(ValueError("too dark"), 2)))
    words = arguments(write_manifest(tmp_path, 2, num_missing=1), tmp_path / "out")
    assert cli_here("run", *words, "sweep.motion_bucket_id=[1,2,3]", "max_failed_fraction=1").returncode == 0
    return tmp_path / "out"


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(path): path.lstat() for path in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def test_a_run_that_is_over_tells_its_counts_failures_machine_and_disk(
    finished: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(finished)
    monkeypatch.setattr(Store, "read_record", lambda *_: pytest.fail("status has read a record"))
    said = cli_here("status", finished)
    assert tree(finished) == before
    assert said.returncode == 0
    head, videos, *rest = said.stdout.splitlines()
    assert head.startswith(f"{finished}: ended at 20" if "5 failed" not in videos else f"{finished}: finished at 20")
    assert "4 of 9 done, 5 failed, nothing left" in videos
    text = "\n".join(rest)
    assert "2 × generate: ValueError: too dark" in text
    assert "1 × load: ItemError" in text
    assert f"{platform.node()} (stub), 4 of the last 4 videos" in text
    total = sum(path.stat().st_size for path in finished.glob("videos/*/*"))
    assert (status(finished).video_bytes, status(finished).is_exact) == (total, True)
    assert "go on" not in text


def test_json_is_a_line_a_folder_with_every_field(finished: Path, cli_here: Cli) -> None:
    rows = [json.loads(line) for line in cli_here("status", finished, finished, "--json").stdout.splitlines()]
    assert len(rows) == 2
    assert (rows[0]["state"], rows[0]["exit_code"], rows[0]["num_left"]) == ("finished", 0, 0)
    assert (rows[0]["num_done"], rows[0]["num_failed"], rows[0]["num_asked"]) == (4, 5, 9)


def wait_for(output: Path, state: str, num_done: int) -> Any:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if Store(output).exists():
            found = status(output)
            if found.state == state and found.num_done >= num_done:
                return found
        time.sleep(0.1)
    return pytest.fail(f"never {state} with {num_done} videos done")


def test_a_run_is_running_then_killed_and_after_the_command_that_goes_on_finished(tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = arguments(write_manifest(tmp_path, 2), output)
    command = [sys.executable, "-m", "svd_batch", "run", *words, "sweep.motion_bucket_id=[1,2,3]"]
    environment = without_torch(output, video_s=1.5)
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        found = wait_for(output, "running", 3)
        text = "\n".join(lines(found))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert f"running, process {process.pid} on {platform.node()} since 20" in text
    assert f"{found.num_done} of 6 done, 0 failed, {6 - found.num_done} left" in text
    assert found.videos_per_minute is not None
    assert 1 < found.videos_per_minute <= 60 / 1.5 * 1.5
    assert found.seconds_left == pytest.approx(60 * found.num_left / found.videos_per_minute)
    assert all(0 <= seconds < PATIENCE_S for seconds in found.in_the_making.values())
    assert len(found.in_the_making) <= 2

    killed = status(output)
    assert (killed.state, killed.exit_code, killed.seconds_left) == ("killed", None, None)
    assert 3 <= killed.num_done < 6
    assert killed.go_on is not None
    assert killed.directory == str(tmp_path)
    page = head_of(write_report(output, tmp_path / "page.html", live=True, refresh_s=7))
    assert f"{killed.num_done} of 6 videos, 0 failed; the run was killed, and its command goes on with it" in page
    again = [sys.executable, "-m", "svd_batch", *shlex.split(killed.go_on)[1:]]
    subprocess.run(again, env=environment, cwd=killed.directory, check=True, capture_output=True)
    last = status(output)
    assert (last.state, last.num_done, last.num_left, last.go_on) == ("finished", 6, 0, None)


def head_of(page: Path) -> str:
    """Return the text above the page's contents."""
    head = page.read_text().partition("<body>")[2].partition("<nav")[0]
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", head)).split())


def test_the_page_of_a_run_says_what_status_says_as_long_as_the_run_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = arguments(write_manifest(tmp_path, 2, num_missing=1), output)
    command = [sys.executable, "-m", "svd_batch", "run", *words, "sweep.motion_bucket_id=[1,2,3]"]
    process = subprocess.Popen(command, env=without_torch(output, video_s=1.5), cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        wait_for(output, "running", 2)
        going_on = head_of(write_report(output, tmp_path / "page.html", live=True, refresh_s=7))
        snapshot = head_of(write_report(output, tmp_path / "page.html"))
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    line = r"[2-6] of 9 videos, [03] failed; \d+\.\d videos/min; about \d+ s left"
    assert re.search(rf"{line} At 20\S+ \d\d:\d\d UTC; this page loads itself anew every 7 s\.", going_on)
    assert re.search(rf"{line} At 20\S+ \d\d:\d\d UTC\.", snapshot)
    for page in (output / "report.html", write_report(output, tmp_path / "page.html", live=True)):
        assert " failed;" not in head_of(page)
        assert "videos/min" not in head_of(page)


def test_an_interrupted_run_says_how_to_go_on(cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(cell: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)

    monkeypatch.setattr("svd_batch.stages._make_engine", lambda settings: StubEngine(act))
    words = arguments(write_manifest(tmp_path, 3), tmp_path / "out")
    assert cli_here("run", *words).returncode == 130
    said = cli_here("status", "out", "--watch").stdout
    assert "interrupted at 20" in said
    assert "with exit code 130" in said
    assert f"go on:    svd-batch run {shlex.join(words)}" in said


def test_refine_counts_drafts_and_finals(cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svd_batch.stages._make_engine", lambda settings: StubEngine())
    words = [*arguments(write_manifest(tmp_path, 2), tmp_path / "out"), "sweep.motion_bucket_id=[1,2,3]"]
    for _ in range(2):  # the second time there is nothing to do
        assert cli_here("refine", *words, "refine.best=1", "refine.metric=motion").returncode == 0
        found = status(tmp_path / "out")
        assert (found.state, found.num_asked, found.num_done, found.num_left) == ("finished", 8, 8, 0)


def hold(output: Path) -> Path:
    """Let another machine have the folder."""
    folder = Store(output).lease_dir
    state = _State(Owner("far-away", "0" * 12, 77, "1"), "token", "2026-01-02T03:04:05+00:00")
    path = _path(folder, 99)
    path.write_bytes(state.to_bytes())
    return path


def test_a_heartbeat_of_another_machine_is_seen_and_its_absence_too(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.5)
    run = Store(finished).read_run()
    run["runs"][-1]["events"] = "events-none.jsonl"  # as of a run that has not ended
    Store(finished).write_run(run)
    path = hold(finished)
    os.utime(path, (1, 1))
    silent = status(finished)
    assert (silent.state, silent.holder and silent.holder.host) == ("silent", "far-away")
    assert "no heartbeat seen" in next(lines(silent))
    end = threading.Event()

    def beat() -> None:
        for beats in range(1000):
            if end.wait(0.1):
                return
            path.write_bytes(path.read_bytes().replace(b'"beats": ', b'"beats": 1' if beats else b'"beats": ')[:1024])
            os.utime(path, (1, 1))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        running = status(finished)
    finally:
        end.set()
        thread.join()
    assert running.state == "running"
    assert next(lines(running)).endswith("heartbeat seen")


def test_a_folder_of_an_earlier_version_tells_what_it_can(tmp_path: Path, cli_here: Cli) -> None:
    make_output(tmp_path / "old")
    said = cli_here("status", tmp_path / "old")
    assert said.returncode == 0
    assert "2 done, 0 failed; made by a version that noted no plan" in said.stdout


def test_a_folder_that_is_no_output_is_one_sentence(tmp_path: Path, cli_here: Cli) -> None:
    said = cli_here("status", tmp_path)
    assert said.returncode == 2
    assert said.stderr.startswith(f"error: output: {tmp_path} was not made by svd_batch")
