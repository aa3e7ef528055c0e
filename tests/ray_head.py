"""A real Ray cluster of one node with a job server on loopback, for the tests that submit to it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

BIN = Path(sys.executable).parent
START_S = 180


@dataclass(frozen=True)
class Head:
    """Where the job server listens, and the token that it asks for."""

    address: str
    token: str


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def ray_head(num_cpus: int = 4) -> Iterator[Head]:
    """Start `ray start --head` with token authentication, and end it with all that it has started."""
    folder = tempfile.mkdtemp(prefix="svdbh-", dir="/tmp")  # short, as sockets' paths are
    token, (dashboard, client, agent, agent_grpc, metrics) = secrets.token_hex(16), free_ports(5)
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", "--port=0", f"--ray-client-server-port={client}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
        *(f"--num-cpus={num_cpus}", "--num-gpus=0", "--object-store-memory=100000000", f"--temp-dir={folder}"),
    ]
    own = {"HOME": folder, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    own |= {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    log = Path(folder, "start.log")
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env={**os.environ, **own}, stdout=file, stderr=file, start_new_session=True, cwd=folder
        )
    try:
        head = Head(f"http://127.0.0.1:{dashboard}", token)
        _await(head, process, log)
        yield head
    finally:
        end_all(process)
        shutil.rmtree(folder, ignore_errors=True)


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End a head that leads a session of its own, and all that it has started; in order it would take half a minute."""
    begun = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else's processes are in it
    process.wait()
    for left in psutil.wait_procs(begun, timeout=10)[1]:  # workers see that their raylet is gone
        with suppress(psutil.NoSuchProcess):
            left.kill()


def _await(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    headers = {"Authorization": f"Bearer {head.token}"}
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException):
            if requests.get(f"{head.address}/api/jobs/", headers=headers, timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise AssertionError(f"Ray did not start:\n{log.read_text()}")
