"""What is said when one of Ray's processes dies; `scripts/crashtest` kills real raylets."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest
import ray
from ray._private.node import Node

from svd_batch import ray_watch

Processes = dict[str, subprocess.Popen[bytes]]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Processes that Ray's own class takes for those of a Ray that this process has started."""
    begun = {kind: subprocess.Popen(["sleep", "600"]) for kind in ("raylet", "gcs_server", "log_monitor")}
    node = SimpleNamespace(all_processes={kind: [SimpleNamespace(process=p)] for kind, p in begun.items()})
    node.dead_processes = partial(Node.dead_processes, node)
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    monkeypatch.setattr(ray_watch, "LOOK_S", 0.01)
    yield begun
    for process in begun.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["raylet", "gcs_server"])
def test_a_death_that_ends_the_run_is_told_once(kind: str, processes: Processes) -> None:
    said: list[str] = []
    ended = ray_watch.watch(said.append)
    processes[kind].kill()
    while not said:
        time.sleep(0.01)
    time.sleep(0.1)
    ended.set()
    (sentence,) = said
    assert sentence.startswith(f"Ray's {kind} has died")
    assert "the same command goes on" in sentence


def test_a_run_goes_on_without_rays_log_monitor(processes: Processes) -> None:
    said: list[str] = []
    ended = ray_watch.watch(said.append)
    processes["log_monitor"].kill()
    processes["log_monitor"].wait()
    time.sleep(0.1)
    ended.set()
    assert said == []


def test_nothing_is_said_of_a_ray_that_is_ended_in_order(processes: Processes) -> None:
    said: list[str] = []
    ray_watch.watch(said.append).set()
    processes["raylet"].kill()
    processes["raylet"].wait()
    time.sleep(0.1)
    assert said == []
