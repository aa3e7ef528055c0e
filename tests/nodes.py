"""A Ray cluster of several raylets on this machine, whose nodes come and go; GPUs are numbers with nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


class Nodes:
    """A head without GPUs, which loads pictures, and workers. The processes get the environment that is given."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        from ray.cluster_utils import Cluster

        self._before = dict(os.environ)
        os.environ.update(environment)
        os.environ["RAY_TMPDIR"] = str(folder)
        (folder / "ray").mkdir()
        self._cluster = Cluster()
        self._add(num_cpus=2, num_gpus=0, include_dashboard=False)

    def _add(self, **arguments: Any) -> Any:
        """Start a node; Ray gives each 30 s to come up, which a busy machine may not have."""
        for is_last in (False, False, True):
            before = psutil.Process().children(recursive=True)
            try:
                return self._cluster.add_node(object_store_memory=100 * 2**20, **arguments)
            except Exception:
                for process in set(psutil.Process().children(recursive=True)) - set(before):
                    process.kill()
                if is_last:
                    raise
        raise AssertionError

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, num_gpus: float = 1) -> Any:
        """Start a worker."""
        return self._add(num_cpus=2, num_gpus=num_gpus)

    def kill(self, node: Any) -> None:
        """End a worker's raylet with SIGKILL; its processes see that it is gone, and end."""
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: int) -> None:
        """Announce that a worker will be gone in some seconds, as a cloud does of a spot machine."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self.address]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        limit = ["--deadline-remaining-seconds", str(seconds)]
        subprocess.run([*command, "--node-id", node.node_id, *why, *limit], check=True, capture_output=True)

    def remove(self, node: Any) -> None:
        """End a worker in order."""
        self._cluster.remove_node(node, allow_graceful=True)

    def stop(self) -> None:
        """End all."""
        try:
            self._cluster.shutdown()
        finally:
            os.environ.clear()
            os.environ.update(self._before)


def wait_until(condition: Any, timeout: float) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
