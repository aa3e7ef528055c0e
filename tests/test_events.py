"""The event log: a line for each video, failure, start and end; bounded; and never a reason for a run to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import make_failure, make_record
from conftest import Cli
from stub_engine import StubEngine
from test_faults import write_manifest

from svd_batch import events
from svd_batch.events import EventLog, tail


def written(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("events-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_writes_a_line_for_its_start_each_video_each_failure_and_its_end(
    cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(tmp_path, num_pictures=2, num_missing=1)
    monkeypatch.setattr("svd_batch.stages._make_engine", lambda settings: StubEngine())
    words = ["backend=serial", f"manifest={manifest}", "output=out", "metrics.names=[]"]
    assert cli_here("run", *words).returncode == 0
    lines = written(tmp_path / "out/.svd_batch/logs")
    assert [line["event"] for line in lines] == ["start", "failure", "video", "video", "end"]
    failure, video, end = lines[1], lines[2], lines[-1]
    assert (failure["stage"], failure["error_type"], failure["attempts"]) == ("load", "ItemError", 1)
    assert (failure["image_id"] and failure["host"], failure["video_id"]) == (failure["host"], None)
    assert {"video_id", "image_id", "host", "device_name", "denoise_s", "encode_s", "time"} <= set(video)
    assert (video["num_made"], video["num_failed"], video["num_asked"]) == (1, 1, 3)
    assert (end["exit_code"], end["num_made"], end["num_failed"], end["error"]) == (0, 2, 1, None)


def test_a_run_has_at_most_two_files_of_the_largest_size_and_the_last_line_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_BYTES", 2000)
    log = EventLog()
    log.begin(tmp_path / "events-a.jsonl", {})
    for _ in range(40):
        log.add(make_record())
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"events-a.jsonl", "events-a.1.jsonl"}
    assert max(sizes.values()) <= 2000
    assert tail(tmp_path / "events-a.jsonl")[-1]["num_made"] == 40


def test_the_tail_leaves_out_lines_that_are_cut_off_at_either_end(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(10, 60)) + '{"n": 6')
    assert [event["n"] for event in tail(path, 30)] == [58, 59]
    assert [event["n"] for event in tail(path)] == list(range(10, 60))
    assert tail(tmp_path / "none.jsonl") == []


def test_a_log_that_cant_be_written_still_counts(tmp_path: Path) -> None:
    log = EventLog()
    log.begin(tmp_path / "no folder/events.jsonl", {})
    log.add(make_record())
    log.add(make_failure())
    log.end({})
    assert (log.num_made, log.num_failed, log.failures["load: no such file"]) == (1, 1, 1)
    assert log.has_begun


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "events.jsonl").symlink_to(target)
    log = EventLog()
    log.begin(tmp_path / "events.jsonl", {})
    log.add(make_record())
    assert target.read_bytes() == b""


def test_what_steers_a_terminal_is_escaped(tmp_path: Path) -> None:
    log = EventLog()
    log.begin(tmp_path / "events.jsonl", {})
    log.add(make_record(image_id="\x1b[2J\u202e"))
    data = (tmp_path / "events.jsonl").read_bytes()
    assert b"\x1b" not in data
    assert data.isascii()
