"""The processes and temporary folders that belong to one crash test, and ending them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "SVD_BATCH_CRASH_TEST"
"""Variable that every process of a test inherits, with the test's own folder as its value."""

ACTOR, RAYLET = "actor", "raylet"


def ours(root: Path) -> list[psutil.Process]:
    """Return the living processes of the test in `root`, this one excepted.

    Ray's set titles of their own, which overwrites the environment that others see; they are known by their working
    folder and their arguments.
    """
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _belongs(p, str(root))]


def _belongs(process: psutil.Process, root: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if (process.cwd() + os.sep).startswith(root + os.sep) or root in " ".join(process.cmdline()):
            return True
        return bool(process.environ().get(MARK) == root)
    except (psutil.Error, OSError):
        return False


def find(root: Path, kind: str) -> list[psutil.Process]:
    """Return the living processes of one kind."""
    return [process for process in ours(root) if _kind(process) == kind]


def _kind(process: psutil.Process) -> str:
    try:
        title = " ".join(process.cmdline())
        if process.name() == "raylet":
            return RAYLET
    except psutil.Error:
        return ""
    return ACTOR if title.startswith("ray::") and "RayGenerate" in title else ""


def left_over(root: Path, temporary: Path, patience_s: float) -> Iterator[str]:
    """Yield what still lives, or lies in the temporary folder, after waiting for it to go."""
    deadline = time.monotonic() + patience_s
    while (living := ours(root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in living:
        try:
            yield f"process {process.pid} is left: {' '.join(process.cmdline())[:100]}"
        except psutil.Error:
            continue
    for path in sorted(temporary.iterdir()):
        yield f"{path.name} is left in the temporary folder"


def end_all(root: Path) -> None:
    """Kill every process of the test."""
    while living := ours(root):
        for process in living:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(living, timeout=5)
