"""Items that kill their process, and errors that condemn it: what is tried again, and what is set aside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_cell, make_image, make_store
from stub_engine import Act, StubEngine

from svd_batch import video
from svd_batch.attempts import AttemptLog, Attempts
from svd_batch.config import MemoryConfig, ModelConfig, VideoConfig
from svd_batch.errors import ProcessError, condemns
from svd_batch.load import LoadedUnit
from svd_batch.records import FailureRecord, PlannedVideo, Result, SweepCell, VideoRecord, WorkUnit
from svd_batch.settings import GenerateSettings
from svd_batch.stages import Generate
from svd_batch.store import Store, flush_and_hash

PICTURE = np.zeros((32, 48, 3), np.uint8)


class Death(BaseException):
    """Ends a stage where it stands, as the end of its process does: nobody catches it."""


class AcceleratorError(RuntimeError):
    """Named as torch's."""


def raising(error: BaseException, *buckets: int) -> Act:
    """Return what raises the error for videos of these motion buckets."""

    def act(cell: SweepCell) -> None:
        if cell.motion_bucket_id in buckets:
            raise error

    return act


def unit(*buckets: int) -> WorkUnit:
    cells = [make_cell(motion_bucket_id=bucket) for bucket in buckets]
    return WorkUnit(make_image(), tuple(PlannedVideo(f"{c.motion_bucket_id:020}", c, 1, 0) for c in cells))


def process(root: Path, work: WorkUnit, engine: StubEngine) -> list[Result]:
    """Return the results of a unit by a new stage, as a new process has it."""
    settings = GenerateSettings(str(root), ModelConfig(), "r", MemoryConfig(), VideoConfig(), "f")
    make: Any = lambda: engine  # noqa: E731
    stage = Generate(settings, make)
    try:
        return list(stage(LoadedUnit(work, PICTURE, "0" * 64, 0.0)))
    finally:
        stage.close()


def until_it_ends(root: Path, work: WorkUnit, make: Callable[[], StubEngine]) -> tuple[int, list[Result]]:
    """Return how many processes died before one made the unit, and its results."""
    for num_deaths in range(20):
        try:
            return num_deaths, process(root, work, make())
        except (Death, ProcessError):
            continue
    raise AssertionError("it goes on for ever")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "out")


def outcomes(results: list[Result]) -> dict[int, str]:
    """Return what each video came to, by motion bucket."""
    kinds = {int(r.video_id or 0): "video" if isinstance(r, VideoRecord) else r.error_type for r in results}
    return dict(sorted(kinds.items()))


def test_an_item_that_kills_its_process_is_set_aside_after_three_and_the_rest_is_made(store: Store) -> None:
    deaths, results = until_it_ends(store.root, unit(1, 2, 3), lambda: StubEngine(raising(Death(), 2)))
    assert deaths == 3
    assert outcomes(results) == {1: "video", 2: "ProcessDied", 3: "video"}
    (failure,) = store.failures()
    assert (failure.stage, failure.attempts) == ("generate", 3)
    assert failure.error_message == (
        "3 processes ended while they made it (crash, kill or out of host memory); retry_failed=true tries it again"
    )


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_who_shares_a_batch_with_a_killer_is_innocent(batch_size: int, store: Store) -> None:
    deaths, results = until_it_ends(
        store.root, unit(1, 2, 3, 4), lambda: StubEngine(raising(Death(), 3), batch_size=batch_size)
    )
    assert deaths == 3
    assert outcomes(results) == {1: "video", 2: "video", 3: "ProcessDied", 4: "video"}


def test_who_is_made_in_a_lane_beside_a_killer_is_innocent(store: Store) -> None:
    deaths, results = until_it_ends(store.root, unit(1, 2, 3, 4), lambda: StubEngine(raising(Death(), 3), lanes=2))
    assert deaths == 3
    assert outcomes(results) == {1: "video", 2: "video", 3: "ProcessDied", 4: "video"}


def test_a_suspect_waits_until_no_lane_is_at_work(store: Store) -> None:
    AttemptLog(store).begin(f"{3:020}")
    done: list[int] = []

    def slow(cell: SweepCell) -> None:
        if cell.motion_bucket_id == 3:
            assert sorted(done) == [1, 2, 4]
        time.sleep(0.2)
        done.append(cell.motion_bucket_id)

    results = process(store.root, unit(1, 2, 3, 4), StubEngine(slow, lanes=2))
    assert set(outcomes(results).values()) == {"video"}


def test_an_error_in_a_lane_that_condemns_the_process_lets_the_other_lane_finish(store: Store) -> None:
    begun = threading.Event()

    def act(cell: SweepCell) -> None:
        if cell.motion_bucket_id == 1:
            assert begun.wait(60)
            raise STICKING
        begun.set()
        time.sleep(0.3)

    engine = StubEngine(act, lanes=2)
    with pytest.raises(ProcessError):
        process(store.root, unit(1, 2, 3, 4), engine)
    assert sorted(engine.batches) == [[1], [2]]
    assert store.done_ids() == {f"{2:020}"}


def test_several_killers_in_a_unit_cost_three_processes_each(store: Store) -> None:
    deaths, results = until_it_ends(store.root, unit(1, 2, 3, 4), lambda: StubEngine(raising(Death(), 1, 3, 4)))
    assert deaths == 9
    assert outcomes(results) == {1: "ProcessDied", 2: "video", 3: "ProcessDied", 4: "ProcessDied"}
    assert {failure.attempts for failure in store.failures()} == {3}


def test_a_suspect_is_made_last_and_alone(store: Store) -> None:
    AttemptLog(store).begin(f"{2:020}")
    engine = StubEngine(batch_size=4)
    process(store.root, unit(1, 2, 3), engine)
    assert engine.batches == [[1, 3], [2]]


def test_the_next_unit_is_not_begun_while_a_suspect_is_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    AttemptLog(store).begin(f"{1:020}")
    engine = StubEngine()
    begun_before_the_end: list[int] = []
    write = video.write_video

    def slowly(*arguments: Any) -> None:
        time.sleep(0.3)
        write(*arguments)
        begun_before_the_end.append(len(engine.batches))

    monkeypatch.setattr(video, "write_video", slowly)
    settings = GenerateSettings(str(store.root), ModelConfig(), "r", MemoryConfig(), VideoConfig(), "f")
    make: Any = lambda: engine  # noqa: E731
    stage = Generate(settings, make)
    begun = [stage(LoadedUnit(work, PICTURE, "0" * 64, 0.0)) for work in (unit(1), unit(2))]
    assert [outcomes(list(results)) for results in begun] == [{1: "video"}, {2: "video"}]
    stage.close()
    assert begun_before_the_end == [1, 2]


def test_a_process_that_dies_after_encoding_has_not_died_of_the_item(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_flush: list[int] = []

    def told(path: Path) -> tuple[str, int]:
        at_the_flush.append(AttemptLog(store).of(f"{1:020}").num)
        return flush_and_hash(path)

    monkeypatch.setattr("svd_batch.committer.flush_and_hash", told)
    process(store.root, unit(1), StubEngine())
    assert at_the_flush == [0]


def test_what_succeeds_or_fails_in_the_usual_way_leaves_no_attempts(store: Store) -> None:
    results = process(store.root, unit(1, 2), StubEngine(raising(ValueError("no"), 2)))
    assert outcomes(results) == {1: "video", 2: "ValueError"}
    assert list(store.attempts_dir.iterdir()) == []


def test_what_was_set_aside_gets_three_new_attempts_when_asked_to_and_they_add_up(store: Store) -> None:
    engine = lambda: StubEngine(raising(Death(), 2))  # noqa: E731
    until_it_ends(store.root, unit(2), engine)
    assert until_it_ends(store.root, unit(2), engine)[0] == 0
    AttemptLog(store).renew()
    assert until_it_ends(store.root, unit(2), engine)[0] == 3
    assert [failure.attempts for failure in store.failures()] == [6]
    AttemptLog(store).renew()
    assert outcomes(process(store.root, unit(2), StubEngine())) == {2: "video"}
    assert (store.failures(), list(store.attempts_dir.iterdir())) == ([], [])


def test_a_run_that_is_started_again_to_retry_gives_no_new_attempts_to_what_it_is_trying(store: Store) -> None:
    log = AttemptLog(store)
    log.begin("a")
    log.renew()
    assert log.of("a").num == 1


def test_a_stopped_run_takes_back_what_it_had_begun(store: Store) -> None:
    log = AttemptLog(store)
    for video_id, num in (("once", 1), ("twice", 2), ("blamed", 1), ("aside", 3)):
        for _ in range(num):
            log.begin(video_id)
    log.blame("blamed", "MemoryError", "none left")
    log.set_aside("aside", log.of("aside"))
    log.withdraw()
    assert [log.of(name).num for name in ("once", "twice", "blamed", "aside")] == [0, 1, 1, 3]


@pytest.mark.parametrize("text", ["", '{"num": ', '{"other": 1}', "[]"])
def test_a_file_that_was_cut_off_counts_as_one_attempt(text: str, store: Store) -> None:
    (store.attempts_dir / "a.json").write_text(text)
    assert AttemptLog(store).of("a") == Attempts(1)


# --- errors that condemn the process ------------------------------------------------------------------------------

STICKING = RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (STICKING, True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (AcceleratorError("CUDA error: something new"), True),
        (AcceleratorError("CUDA error: out of memory"), False),
        (AcceleratorError("CUDA error: invalid configuration argument"), False),
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("CUDA error: a bad day"), False),
        (ValueError("CUDA error: device-side assert triggered"), False),
        (OSError("No space left on device"), False),
    ],
)
def test_which_errors_condemn_a_process(error: Exception, expected: bool) -> None:
    assert condemns(error) is expected


@pytest.mark.parametrize("error", [STICKING, AcceleratorError("CUDA error: a new one"), MemoryError("none left")])
def test_an_error_that_condemns_its_process_once_costs_no_video_and_no_row(error: Exception, store: Store) -> None:
    left = [error]

    def once(cell: SweepCell) -> None:
        if cell.motion_bucket_id == 2 and left:
            raise left.pop()

    with pytest.raises(ProcessError, match="this process can't go on after that"):
        process(store.root, unit(1, 2, 3), StubEngine(once))
    assert store.done_ids() == {f"{1:020}"}
    assert outcomes(process(store.root, unit(1, 2, 3), StubEngine(once))) == {1: "video", 2: "video", 3: "video"}
    assert (store.failures(), list(store.attempts_dir.iterdir())) == ([], [])


def test_an_item_that_condemns_every_process_is_set_aside_with_its_own_error(store: Store) -> None:
    deaths, results = until_it_ends(store.root, unit(1, 2, 3), lambda: StubEngine(raising(STICKING, 2)))
    assert deaths == 3
    assert outcomes(results) == {1: "video", 2: "RuntimeError", 3: "video"}
    assert "3 processes ended while they made it: CUDA error: an illegal memory" in store.failures()[0].error_message


def test_nothing_is_generated_after_an_error_that_condemns_the_process(store: Store) -> None:
    engine = StubEngine(raising(STICKING, 1))
    with pytest.raises(ProcessError):
        process(store.root, unit(1, 2, 3), engine)
    assert engine.batches == [[1]]


def test_nor_is_the_next_unit_begun_that_an_actor_holds_already(store: Store) -> None:
    held = threading.Event()

    def act(cell: SweepCell) -> None:
        assert held.wait(60)
        raise STICKING

    engine = StubEngine(act)
    stage = Generate(
        GenerateSettings(str(store.root), ModelConfig(), "r", MemoryConfig(), VideoConfig(), "f"),
        lambda: engine,  # type: ignore[arg-type, return-value]
    )

    def make(work: WorkUnit) -> type[BaseException] | None:
        try:
            list(stage(LoadedUnit(work, PICTURE, "0" * 64, 0.0)))
        except BaseException as error:
            return type(error)
        return None

    with ThreadPoolExecutor(2) as pool:
        ends = []
        for work in (unit(1), unit(2)):
            ends.append(pool.submit(make, work))
            while len(stage._jobs) < len(ends):
                time.sleep(0.01)
        held.set()
        assert [end.result() for end in ends] == [ProcessError, ProcessError]
    stage.close()
    assert engine.batches == [[1]]
    assert [AttemptLog(store).of(f"{i:020}").num for i in (1, 2)] == [1, 0]


def test_host_memory_that_runs_out_in_writing_condemns_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("svd_batch.video.write_video", full)
    with pytest.raises(ProcessError, match="MemoryError"):
        process(store.root, unit(1), StubEngine())
    assert AttemptLog(store).of(f"{1:020}").error_type == "MemoryError"
    assert not [f for f in store.failures() if isinstance(f, FailureRecord)]


def test_the_file_of_an_attempt_becomes_that_of_the_pending_record(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system takes long to make new files where many were just deleted."""
    inodes: dict[str, list[int]] = {"attempt": [], "record": []}
    forget, write_pending = AttemptLog.forget, Store._write_pending

    def at_the_end(self: AttemptLog, video_id: str, leave_to: Path | None = None) -> None:
        inodes["attempt"].append(self._path(video_id).stat().st_ino)
        forget(self, video_id, leave_to)

    def written(self: Store, *arguments: Any) -> Path:
        pending = write_pending(self, *arguments)
        inodes["record"].append(pending.stat().st_ino)
        return pending

    monkeypatch.setattr(AttemptLog, "forget", at_the_end)
    monkeypatch.setattr(Store, "_write_pending", written)
    process(store.root, unit(1, 2, 3), StubEngine())
    assert len(inodes["record"]) == 3
    assert sorted(inodes["attempt"]) == sorted(inodes["record"])


def test_a_file_that_can_not_be_flushed_leaves_no_pending_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise ValueError("not this one")

    monkeypatch.setattr("svd_batch.committer.flush_and_hash", fail)
    assert outcomes(process(store.root, unit(1, 2), StubEngine())) == {1: "ValueError", 2: "ValueError"}
    assert list(store.pending_dir.iterdir()) == []
