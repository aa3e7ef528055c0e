"""What a killed run leaves: finished videos are adopted, half-made files removed, nothing is made twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import make_failure, make_record, run_here, run_python, without_torch
from conftest import tiny_overrides

from svd_batch import store as store_module
from svd_batch.engine.pipeline import Engine
from svd_batch.records import VideoRecord
from svd_batch.recover import FOREIGN_S, recover
from svd_batch.store import Store, file_sha256, flush, owner_of

STEPS = ["before anything", "record pending", "video placed", "record committed"]
"""After which step of a commit the process is killed."""

DYING = """
import os, signal, sys
from pathlib import Path
from svd_batch import store

steps, move = int(sys.argv[1]), store.move

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def counting(temporary, path):
    global steps
    if path.suffix in (".mp4", ".json") and "failures" not in path.parts and path.name != "run.json":
        steps -= 1
        if steps == 0:
            die()
    move(temporary, path)

store.move = counting
if steps == 0:
    store.Store._write_pending = lambda *_: die()
if steps == 3:
    store.Store.clear_failure = lambda *_: die()
from svd_batch.cli import main
main(sys.argv[2:])
"""
"""A command that is killed before its first pending record, video's move or record's move, or after that."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a new output folder."""
    store = Store(tmp_path / "output")
    store.create()
    return store


def dead(path: Path) -> Path:
    """Give a temporary file the name of a dead process's, and return its path."""
    machine, pid, _, unique = path.name.split("-")
    return path.rename(path.with_name(f"{machine}-{pid}-1-{unique}"))


def pending(store: Store, content: bytes = b"a clip") -> tuple[Path, VideoRecord]:
    """Write the pending record of a dead process, of a video that isn't placed yet."""
    video = store.temporary("mp4")
    video.write_bytes(content)
    record = make_record(num_bytes=len(content), video_sha256=file_sha256(video))
    video.unlink()
    return dead(store._write_pending(record)), record


def place(store: Store, record: VideoRecord, content: bytes = b"a clip") -> None:
    video = store.temporary("mp4")
    video.write_bytes(content)
    store.place(video, record.file_name)


def test_a_pending_record_does_not_count(store: Store) -> None:
    pending(store)
    assert store.done_ids() == set()


def test_a_pending_record_whose_video_is_there_is_committed(store: Store) -> None:
    path, record = pending(store)
    store.record_failure(make_failure(video_id=record.video_id))
    place(store, record)
    assert recover(store) == 1
    assert list(store.records()) == [record]
    assert not path.exists()
    assert store.failures() == []
    assert recover(store) == 0


@pytest.mark.parametrize("content", [None, b"", b"b clip", b"a clip and more"])
def test_a_pending_record_whose_video_is_another_or_not_there_is_dropped(store: Store, content: bytes | None) -> None:
    path, record = pending(store)
    if content is not None:
        place(store, record, content)
    assert recover(store) == 0
    assert store.done_ids() == set()
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null"])
def test_a_pending_record_that_was_not_written_to_its_end_is_dropped(store: Store, text: str) -> None:
    path, record = pending(store)
    place(store, record)
    path.write_text(text)
    assert recover(store) == 0
    assert not path.exists()


def test_a_record_that_counts_is_not_replaced_by_a_pending_one(store: Store) -> None:
    _, record = pending(store)
    place(store, record)
    scored = make_record(metrics={"motion": 1.0})
    store.commit(scored)
    assert recover(store) == 0
    assert list(store.records()) == [scored]
    assert not list(store.pending_dir.iterdir())


def test_a_video_of_another_machine_is_adopted_at_once_and_its_maker_may_go_on(store: Store) -> None:
    """Its maker may be an actor that outlives its driver for a moment."""
    path, record = pending(store)
    place(store, record)
    path = path.rename(path.with_name("0" * 12 + path.name[12:]))
    assert recover(store) == 1
    store.commit_pending(path, record)
    assert (list(store.records()), store.failures()) == ([record], [])


def test_a_pending_record_of_another_machine_whose_video_is_not_there_yet_is_left(store: Store) -> None:
    path, _ = pending(store)
    path = path.rename(path.with_name("0" * 12 + path.name[12:]))
    recover(store)
    assert path.exists()


def test_a_failure_that_outlived_its_videos_commit_is_cleared(store: Store) -> None:
    record = make_record()
    place(store, record)
    store.commit(record)
    failures = [make_failure(video_id=record.video_id), make_failure(video_id="cd" * 10), make_failure()]
    for failure in failures:
        store.record_failure(failure)
    recover(store)
    assert {f.item_id for f in store.failures()} == {"cd" * 10, "cat"}


def test_temporary_files_of_the_dead_are_removed_and_those_of_the_living_left(store: Store) -> None:
    mine, other = store.temporary("mp4"), store.temporary("mp4")
    for path in (mine, other):
        path.write_bytes(b"half a clip")
    gone = dead(other)
    recover(store)
    assert (mine.exists(), gone.exists()) == (True, False)


@pytest.mark.parametrize("name", ["000000000000-7-1-{}.mp4", "7-{}.mp4", "{}"])
def test_temporary_files_of_other_machines_are_removed_when_they_are_old(store: Store, name: str) -> None:
    young, old = (store.temporary_dir / name.format(unique) for unique in ("aa", "bb"))
    clock = store.lease_dir / "000000001.json"
    clock.write_text("")
    for path, age_s in ((young, 60), (old, FOREIGN_S + 60)):
        path.write_bytes(b"half a clip")
        os.utime(path, (clock.stat().st_mtime - age_s,) * 2)
    recover(store)
    assert (young.exists(), old.exists()) == (True, False)


def test_a_temporary_file_tells_whose_it_is(store: Store) -> None:
    owner = owner_of(store.temporary("mp4"))
    assert owner is not None
    assert owner.pid == os.getpid()


@pytest.mark.parametrize("failing", [1, 2])
def test_a_commit_whose_move_fails_leaves_nothing_that_counts(
    store: Store, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record that can't be moved after its video stays, so that the next run adopts it."""
    video = store.temporary("mp4")
    video.write_bytes(b"a clip")
    flush(video)
    record = make_record(num_bytes=6, video_sha256=file_sha256(video))
    move, calls = store_module.move, []

    def move_or_fail(temporary: Path, path: Path) -> None:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        move(temporary, path)

    monkeypatch.setattr(store_module, "move", move_or_fail)
    with pytest.raises(OSError, match="Input/output error"):
        store.commit_video(video, record)
    assert store.done_ids() == set()
    assert len(list(store.pending_dir.iterdir())) == failing - 1
    for path in store.pending_dir.iterdir():
        dead(path)
    assert recover(store) == failing - 1


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_any_step_of_a_commit_makes_no_finished_video_again(
    step: str, tmp_path: Path, tiny_checkpoint: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["run", "backend=serial", *tiny_overrides(tiny_checkpoint), f"manifest={pets}"]
    arguments += [f"output={tmp_path / 'out'}"]
    command = [sys.executable, "-c", DYING, str(STEPS.index(step)), *arguments]
    environment = without_torch(tmp_path / "out", 0.01)
    killed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert killed.returncode == -9, killed.stderr
    store = Store(tmp_path / "out")
    assert len(store.done_ids()) == (step == "record committed")
    made: list[int] = []
    generate = Engine.generate_batch
    monkeypatch.setattr(Engine, "generate_batch", lambda e, p, a: (made.append(len(a)), generate(e, p, a))[1])
    printed = run_here(*arguments)
    assert sum(made) == 3 - (step in ("video placed", "record committed"))
    assert ("adopted: 1 video that a killed run" in printed.out) == (step == "video placed")
    ids = pq.read_table(store.metadata)["video_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 3
    assert run_here("verify", str(store.root)).out.endswith("0 problems found\n")
    assert not [*store.pending_dir.iterdir(), *store.temporary_dir.iterdir()]


def test_recovering_loads_nothing_heavy() -> None:
    code = "import sys, svd_batch.recover; print(sorted({'torch', 'ray', 'hydra', 'cv2'} & set(sys.modules)))"
    assert run_python(code).stdout == "[]\n"
