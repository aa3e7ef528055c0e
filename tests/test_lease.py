"""One writer an output folder: who gets the lease, when a dead one's is taken over, what the refused are told."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import make_output
from conftest import PATIENCE_S

from svd_batch import cli, lease
from svd_batch.console import Progress
from svd_batch.errors import UserError
from svd_batch.lease import take
from svd_batch.owner import Owner, is_alive, this_process
from svd_batch.store import Store

TAKER = """
import sys
from pathlib import Path
from svd_batch.lease import UserError, take

folder = Path(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    place = folder / line.strip()
    try:
        lease = take(place, place)
        print("won", flush=True)
    except UserError as error:
        print(f"refused: {error}", flush=True)
"""
"""Takes the lease of each folder that it is told, and keeps it."""


class Taker:
    """A process that takes leases when it is told to, in next to no time."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", TAKER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "ready"

    def ask(self, name: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Taker]]:
    """Starts takers of leases below tmp_path; they are gone at the end."""
    takers: list[Taker] = []

    def one() -> Taker:
        takers.append(Taker(tmp_path))
        return takers[-1]

    yield one
    for taker in takers:
        taker.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where a lease may be kept."""
    (tmp_path / "lease").mkdir()
    return tmp_path / "lease"


def nothing() -> None:
    pass


def foreign(folder: Path, number: int = 1) -> Path:
    """Write a lease that a process of another machine holds, and return its file."""
    owner = Owner("elsewhere", "0" * 12, 7, "1")
    path = folder / f"{number:09}.json"
    path.write_bytes(lease._State(owner, "f" * 16, "2026-01-02T03:04:05+00:00").to_bytes())
    return path


def test_of_two_at_the_same_instant_exactly_one_wins(tmp_path: Path, start: Callable[[], Taker]) -> None:
    takers = [start(), start()]
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        for taker in takers:
            taker.ask(str(number))
        assert sorted(taker.answer().split(":")[0] for taker in takers) == ["refused", "won"]


def test_of_several_exactly_one_takes_over_a_dead_ones(tmp_path: Path, start: Callable[[], Taker]) -> None:
    dead, *takers = [start() for _ in range(4)]
    names = [f"r{number}" for number in range(20)]
    for name in names:
        (tmp_path / name).mkdir()
        dead.ask(name)
        assert dead.answer() == "won"
    dead.kill()
    for name in names:
        for taker in takers:
            taker.ask(name)
        assert sorted(taker.answer().split(":")[0] for taker in takers) == ["refused", "refused", "won"]


def test_a_killed_owners_lease_is_taken_over_at_once(folder: Path, start: Callable[[], Taker]) -> None:
    taker = start()
    taker.ask("lease")
    assert taker.answer() == "won"
    with pytest.raises(UserError, match=f"is being written by process {taker.process.pid} on .* since 20"):
        take(folder, folder)
    taker.kill()
    began = time.monotonic()
    take(folder, folder).release()
    assert time.monotonic() - began < 5


def test_a_process_that_was_killed_and_not_asked_after_is_dead(folder: Path, start: Callable[[], Taker]) -> None:
    taker = start()
    taker.ask("lease")
    assert taker.answer() == "won"
    taker.process.kill()
    os.waitid(os.P_PID, taker.process.pid, os.WEXITED | os.WNOWAIT)
    take(folder, folder).release()


def test_a_process_id_that_was_used_again_is_not_the_owner() -> None:
    mine = this_process()
    assert is_alive(mine) is True
    assert is_alive(dataclasses.replace(mine, started="1")) is False
    assert is_alive(dataclasses.replace(mine, machine="0" * 12)) is None


def test_the_refused_one_learns_of_a_holder_in_this_process_too_and_a_released_lease_is_free(folder: Path) -> None:
    with take(folder, folder), pytest.raises(UserError, match="wait for it, stop it, or give another output"):
        take(folder, folder)
    take(folder, folder).release()
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_lease_is_given_back_whatever_happens(folder: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), take(folder, folder):
        raise error
    take(folder, folder).release()


def test_a_heartbeat_renews_the_lease(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    with take(folder, folder):
        (path,) = folder.iterdir()
        deadline = time.monotonic() + 60
        while (beats := json.loads(path.read_text() or "{}").get("beats", 0)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert beats >= 3


def test_another_machines_lease_is_taken_over_once_it_has_stood_still_long_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY_S", 0.6)
    foreign(folder)
    said: list[str] = []
    take(folder, folder, said.append).release()
    assert said == ["process 7 on elsewhere had this output folder; watching for 0.6 s whether it still runs"]
    assert [p.name for p in folder.iterdir()] == ["000000002.json"]


def test_another_machines_lease_that_is_renewed_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_POLL_S", 0.01)
    path = foreign(folder)
    state = lease._state(path.read_bytes())
    assert state is not None
    renewed = dataclasses.replace(state, beats=1).to_bytes()
    with pytest.raises(UserError, match="process 7 on elsewhere since 2026-01-02"):
        take(folder, folder, lambda _: bool(path.write_bytes(renewed)))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"owner": 3}'])
def test_a_lease_that_nobody_finished_writing_expires(
    folder: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY_S", 0.3)
    (folder / "000000001.json").write_bytes(data)
    take(folder, folder).release()


def test_a_wait_for_a_lease_that_says_nothing_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRY_S", 0.3)
    monkeypatch.setattr(lease, "_POLL_S", 0.01)
    (folder / "000000001.json").touch()
    said: list[str] = []
    take(folder, folder, said.append).release()
    assert said == [
        "a process that was killed or ran out of disk space as it began had this output folder; watching for 0.3 s "
        "whether it still runs"
    ]


def test_a_lease_that_a_full_disk_has_no_room_for_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs Linux's /dev/full")
    plain = Path.open

    def open_full(path: Path, mode: str = "r", **options: Any) -> Any:
        plain(path, mode, **options).close()
        return plain(full, "wb", **options)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OSError, match=r"No space left on device: .*000000001\.json"):
        take(folder, folder)
    assert not list(folder.iterdir())


def test_who_slept_while_others_came_and_went_does_not_win(folder: Path) -> None:
    """The number it is about to make has been used and removed meanwhile."""
    foreign(folder, 3)
    state = lease._State(this_process(), "a" * 16, "now")
    assert not lease._create(folder, 2, state)
    assert [p.name for p in folder.iterdir()] == ["000000003.json"]


@pytest.mark.parametrize("loss", ["taken it over", "gone"])
def test_a_holder_whose_lease_is_lost_is_interrupted_and_told_why(
    folder: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)

    def hold_and_lose() -> None:
        held.check()
        if loss == "gone":
            next(folder.iterdir()).unlink()
        else:
            foreign(folder, 2)
        threading.Event().wait(60)

    with pytest.raises(UserError, match=f"no longer this run's to write: .*{loss}"), take(folder, folder) as held:
        hold_and_lose()


def test_a_lost_lease_is_not_given_back_in_its_taker_s_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    lost = threading.Event()
    held = take(folder, folder, on_lost=lost.set)
    path = foreign(folder, 2)
    before = path.read_bytes()
    assert lost.wait(60)
    held.release()
    assert path.read_bytes() == before


@pytest.mark.parametrize("verb", ["run", "refine", "score"])
def test_a_verb_is_refused_while_another_process_writes(
    verb: str,
    tmp_path: Path,
    tiny: list[str],
    pets: Path,
    start: Callable[[], Taker],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store(tmp_path / "out")
    if verb == "score":
        make_output(store.root)
        store.write_run({**store.read_run(), "settings": {"fit": "crop"}})
    store.create()
    taker = start()
    taker.ask("out/.svd_batch/lease")
    assert taker.answer() == "won"
    monkeypatch.setattr("svd_batch.backends.Generate", nothing)  # no model loads
    job = ["backend=serial", *tiny, f"manifest={pets}", f"output={store.root}"]
    refine = ["generation.num_inference_steps=25", "refine.best=1", "sweep.motion_bucket_id=[20,240]"]
    arguments = {"run": job, "refine": [*job, *refine], "score": [str(store.root), "--force", "--metrics", "motion"]}[
        verb
    ]
    done = store.done_ids()
    assert cli.main([verb, *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{store.root} is being written by process {taker.process.pid} on" in line
    assert store.done_ids() == done


def test_a_run_that_loses_its_lease_stops_without_writing_tables(
    tmp_path: Path,
    tiny: list[str],
    pets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store(tmp_path / "out")

    def lose(*_: object, **__: object) -> None:
        foreign(store.lease_dir, 2)
        threading.Event().wait(60)

    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(Progress, "update", lose)
    assert cli.main(["run", "backend=serial", *tiny, f"manifest={pets}", f"output={store.root}"]) == 2
    assert "another run has taken it over" in capfd.readouterr().err
    assert store.done_ids()
    assert not store.metadata.exists()
