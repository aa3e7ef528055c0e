"""The crash test: its oracle sees what it should, and a few real kills and faults leave nothing to see."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_cell, make_failure, make_output, write_parquet
from crash import oracle
from crash.command import main
from crash.kills import Chooser, State
from crash.rounds import Expected, Killed, Round
from crash.steps import STEPS

from svd_batch.store import INTERNAL, Store

ROOT = Path(__file__).resolve().parent.parent
CELLS = (make_cell(), make_cell(motion_bucket_id=20))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder of 4 videos, only to be read."""
    store = make_output(tmp_path_factory.mktemp("finished") / "out", cells=CELLS)
    (store.lease_dir / "000000001.json").write_text("{}")
    return store.root


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "metadata.parquet").to_pylist()


def hashes(folder: Path) -> dict[str, str]:
    return {str(row["video_id"]): str(row["video_sha256"]) for row in rows(folder)}


def first_video(folder: Path) -> Path:
    return folder / str(rows(folder)[0]["file_name"])


def write_rows(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    path = folder / "metadata.parquet"
    pq.write_table(change(pq.read_table(path)), path)


SPOILED: dict[str, Callable[[Path], object]] = {
    "is in metadata.parquet 2 times": lambda f: write_rows(f, lambda t: pa.concat_tables([t, t.slice(0, 1)])),
    "is planned and not in metadata.parquet": lambda f: write_rows(f, lambda t: t.slice(1)),
    "totals: 4 records and 3 rows": lambda f: write_rows(f, lambda t: t.slice(1)),
    "has no row": lambda f: shutil.copy(first_video(f), first_video(f).with_name("ab.mp4")),
    "has a row and is not there": lambda f: first_video(f).unlink(),
    "is not the file that its row describes": lambda f: first_video(f).write_bytes(b"x" * 100),
    "differs from the uninterrupted run's": lambda f: first_video(f).write_bytes(b"x" * 100),
    "is not decodable": lambda f: first_video(f).write_bytes(b"x" * 100),
    "tmp/left.mp4 was left behind": lambda f: (f / INTERNAL / "tmp" / "left.mp4").touch(),
    "pending/left.json was left behind": lambda f: (f / INTERNAL / "pending" / "left.json").touch(),
    "failures: 0 rows, 1 files": lambda f: Store(f).record_failure(make_failure()),
    "a table can't be read": lambda f: (f / "metadata.parquet").write_bytes(b"PAR1 half"),
    "stray does not belong there": lambda f: (f / "stray").touch(),
    ".svd_batch/stray does not belong there": lambda f: (f / INTERNAL / "stray").touch(),
    "lease: 2 files": lambda f: (f / INTERNAL / "lease" / "000000002.json").touch(),
    "frames, its row says": lambda f: write_rows(
        f,
        lambda t: t.set_column(t.column_names.index("num_frames"), "num_frames", pa.array([9] * len(t), pa.int64())),
    ),
}


def test_a_whole_folder_has_no_violation(finished: Path) -> None:
    assert list(oracle.when_finished(finished, hashes(finished))) == []
    assert list(oracle.at_any_moment(finished)) == []


@pytest.mark.parametrize("text", SPOILED)
def test_the_oracle_names_each_violation(text: str, folder: Path) -> None:
    expected = hashes(folder)
    SPOILED[text](folder)
    found = list(oracle.when_finished(folder, expected))
    assert any(text in violation for violation in found), found


def test_a_video_that_nobody_planned_is_named(folder: Path) -> None:
    expected = hashes(folder)
    del expected[next(iter(expected))]
    assert [v for v in oracle.when_finished(folder, expected) if "not planned" in v]


@pytest.mark.parametrize(
    ("text", "spoil"),
    [
        ("metadata.parquet can't be read", SPOILED["a table can't be read"]),
        ("has a row and is not there", SPOILED["has a row and is not there"]),
        ("has a record and no whole file", SPOILED["is not decodable"]),
        ("times", SPOILED["is in metadata.parquet 2 times"]),
        ("a record can't be read", lambda f: next((f / INTERNAL / "records").glob("*/*")).write_text("{")),
    ],
)
def test_the_oracle_looks_after_each_kill(text: str, spoil: Callable[[Path], object], folder: Path) -> None:
    spoil(folder)
    found = list(oracle.at_any_moment(folder))
    assert any(text in violation for violation in found), found


def test_a_video_that_was_made_twice_is_named(folder: Path) -> None:
    before = oracle.take_snapshot(folder, 100.0)
    made = dict(before.committed)
    video_id = next(iter(made))
    assert list(oracle.never_twice([before], made, {video_id: [99.0]})) == []
    assert "has been generated again" in next(oracle.never_twice([before], made, {video_id: [99.0, 101.0]}))
    assert "is now of" in next(oracle.never_twice([before], {**made, video_id: "later"}, {}))


def test_a_video_whose_record_is_pending_counts_as_finished(folder: Path) -> None:
    store = Store(folder)
    record = next(store.records())
    store.commit_pending(store._write_pending(record), record)
    path = next(store.records_dir.glob(f"*/{record.video_id}.json"))
    path.rename(store.pending_dir / "pending.json")
    snapshot = oracle.take_snapshot(folder, 1.0)
    assert snapshot.adoptable == {record.video_id}
    assert record.video_id not in snapshot.committed


def test_each_kind_of_kill_comes_as_often_as_the_others() -> None:
    chooser = Chooser("ray", 0, 4)
    for _ in range(200):
        chooser.counts[chooser.next(State(5, 1, 1)).name] += 1
    assert {step.name for step in STEPS} < set(chooser.counts)
    assert min(chooser.counts.values()) >= 4
    assert chooser.counts["raylet at a random moment"] > 3 * chooser.counts["denoising"]


def test_nothing_is_adopted_where_there_is_nothing_to_adopt() -> None:
    chooser = Chooser("serial", 0, 4)
    for _ in range(100):
        planned = chooser.next(State(0, 0, 0))
        chooser.counts[planned.name] += 1
    assert not {s.name for s in STEPS if s.group in ("commit", "adopt", "tidy")} & set(chooser.counts)


@pytest.mark.parametrize(
    ("kills", "error_type", "expected"),
    [
        ((11, 21, 31), "ProcessDied", ["a"]),
        ((11, 21), "ProcessDied", []),
        ((11, 12, 13), "ProcessDied", []),
        ((11, 21, 31), "OSError", []),
    ],
)
def test_what_kills_hit_in_the_making_three_times_may_be_set_aside(
    kills: tuple[int, ...], error_type: str, expected: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    write_parquet(output / "failures.parquet", {"video_id": ["a"], "error_type": [error_type]})
    begun = [json.dumps({"kind": "begin", "time": time, "pid": 1, "what": "a"}) for time in (10, 20, 30)]
    output.with_suffix(".events").write_text("\n".join(begun))
    place: Any = SimpleNamespace(root=tmp_path)
    chooser: Any = None
    played = Round(place, "out", "serial", Expected({}, {}, 1.0), chooser)
    played.outcome.killed = [Killed("serial", "any", float(time), True, True) for time in kills]
    assert played._set_aside() == expected


def crash(*arguments: object, out: Path) -> dict[str, object]:
    """Run the crash test, which must find nothing, and return what it measured."""
    small = ["--pictures", "2", "--cells", "2", "--json", out]
    code = main([str(argument) for argument in (*arguments, *small)])
    report = json.loads(out.read_text())
    assert (code, report["violations"]) == (0, [])
    return dict(report)


def test_killed_runs_and_storage_faults_leave_no_violation(tmp_path: Path) -> None:
    report = crash("--backend", "serial", "--kills", 3, "--faults", 2, "--seed", 1, out=tmp_path / "out.json")
    assert (report["num_kills"], report["num_faults"]) == (3, 2)
    assert set(report["figures"]) == {"serial"}  # type: ignore[call-overload]
    assert not [name for name in os.environ if name.startswith("SVD_BATCH_CRASH")]


def test_a_killed_run_on_ray_leaves_no_violation(tmp_path: Path) -> None:
    report = crash("--backend", "ray", "--kills", 1, "--seed", 2, out=tmp_path / "out.json")
    assert report["num_kills"] == 1
