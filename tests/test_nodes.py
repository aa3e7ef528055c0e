"""A run on a cluster whose nodes die, join and leave: real raylets on this machine, and a millisecond engine."""

from __future__ import annotations

import collections
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import without_torch
from conftest import PATIENCE_S
from crash import events
from nodes import Nodes, wait_until

from svd_batch.records import CELL_FIELDS
from svd_batch.stages import MAX_WRITING
from svd_batch.store import Store
from svd_batch.verify import problems

SMALL = ["model.num_frames=4", "model.height=32", "model.width=48", "metrics.names=[]"]
"""Seeds are each picture's own: with the cell they name a video in the diary."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nd", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)  # short, since Ray puts sockets into it


class Running:
    """A command line of `run` on a cluster, while it goes on."""

    def __init__(self, folder: Path, pets: Path, environment: dict[str, str], *arguments: str) -> None:
        self.output, self._log = folder / "out", folder / "log"
        words = [f"manifest={pets}", f"output={self.output}", *SMALL, *arguments]
        with self._log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "svd_batch", "run", *words],
                cwd=folder,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def printed(self) -> str:
        return self._log.read_text()

    def events(self) -> list[events.Event]:
        return events.read(self.output.with_suffix(".events"))

    def num_committed(self) -> int:
        return sum(event.kind == "commit" for event in self.events())

    def wait_for(self, number: int) -> None:
        """Return once so many videos are committed."""
        wait_until(lambda: self.num_committed() >= number or self.process.poll() is not None, PATIENCE_S)
        assert self.process.poll() is None, self.printed()


def keys_by_id(store: Store) -> dict[str, str]:
    """Return what the diary calls each video."""
    cells = {r.video_id: {name: getattr(r, name) for name in CELL_FIELDS} for r in store.records()}
    return {r.video_id: events.cell_key(r.seed, cells[r.video_id]) for r in store.records()}


def test_nodes_that_die_join_and_leave_cost_what_was_in_the_making_and_nothing_that_was_finished(
    folder: Path, pets: Path
) -> None:
    """One dies and others do its work until one joins; one leaves; another dies and is not replaced."""
    environment = without_torch(folder / "out", video_s=0.4) | {"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    nodes = Nodes(folder, environment)
    try:
        first, second = nodes.add(), nodes.add()
        num_videos = 3 * 30
        cells = f"sweep.motion_bucket_id={list(range(10, 40))}".replace(" ", "")
        run = Running(folder, pets, environment, cells, f"backend.address={nodes.address}", "backend.num_gpus=1")
        run.wait_for(num_videos // 6)
        nodes.kill(second)
        run.wait_for(num_videos // 3)
        third = nodes.add()
        run.wait_for(num_videos // 2)
        nodes.drain(first, 20)
        nodes.add()
        run.wait_for(num_videos // 2 + 10)
        nodes.remove(first)
        run.wait_for(num_videos * 3 // 4)
        nodes.kill(third)
        assert run.process.wait(PATIENCE_S) == 0, run.printed()
    finally:
        nodes.stop()
    assert_each_once(run, num_videos, num_lost=3)


def assert_each_once(run: Running, num_videos: int, num_lost: int) -> None:
    """Fail unless each video is there, was committed once, and was never begun again after that.

    Of each lost node's actor what it can have had in the making may have been begun twice.
    """
    store, diary = Store(run.output), run.events()
    committed = {event.what: event.time for event in diary if event.kind == "commit"}
    assert collections.Counter(event.what for event in diary if event.kind == "commit") == dict.fromkeys(committed, 1)
    assert len(committed) == num_videos
    assert store.done_ids() == set(committed)
    assert not list(problems(run.output))
    begun = [event for event in diary if event.kind == "begin"]
    finished = {key: committed[video_id] for video_id, key in keys_by_id(store).items()}
    assert [event.what for event in begun if event.time > finished[event.what]] == []
    assert len(begun) - num_videos <= num_lost * (1 + MAX_WRITING)
    print(json.dumps({"videos": num_videos, "begun": len(begun), "pauses_s": pauses(diary)}))


def pauses(diary: list[events.Event]) -> list[float]:
    """Return the longest times between two commits, the longest first."""
    times = [event.time for event in diary if event.kind == "commit"]
    return sorted((round(b - a, 1) for a, b in itertools.pairwise(times)), reverse=True)[:5]
