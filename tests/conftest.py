"""Shared fixtures: a tiny real SVD checkpoint, a few real pictures, and the command line in this or its own process."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd_batch.stages import _make_engine as REAL_ENGINE  # noqa: N812

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # a second thread only slows so small a model down, most of all on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else threads that wait for work take cores from other tests
os.environ.setdefault("RAY_worker_niceness", "0")  # else actors get next to nothing beside the other tests

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else the runs that a test interrupts would go on

PATIENCE_S = 600
"""How long a test waits for another process: far longer than it takes on a busy machine, and below pytest's timeout."""

LONGEST_FIRST = (
    "test_slurm.py",
    "test_refine.py",
    "test_submit_ray.py",
    "test_fit.py",
    "test_run.py",
    "test_nodes.py",
    "test_estimate.py",
    "test_reproducible.py",
    "test_memory.py",
    "test_backends.py",
    "test_object_storage.py",
    "test_bench.py",
    "test_ray_metrics.py",
    "test_checkpoint.py",
    "test_crashtest.py",
    "test_outlook.py",
    "test_faults.py",
    "test_show.py",
    "test_bad_input.py",
)
"""What takes longest begins first, or the end would have one long file and idle cores; starts of Ray take turns."""

GPU_FILES = ("/dev/nvidiactl", "/dev/dxg")
"""What a machine with a CUDA GPU has: Linux, and Linux in Windows."""

Cli = Callable[..., subprocess.CompletedProcess[str]]


gc.disable()  # while modules are imported: torch and diffusers leave nothing to collect and much to look through


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those marked `gpu`: the suite proves what a CPU does, to the bit.

    CUDA looks no further than a number that it doesn't know; Ray counts them, and some tests tell it of eight GPUs.
    """
    if config.option.markexpr != "gpu" and any(map(os.path.exists, GPU_FILES)):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(["-1"] * 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """Let the collector look at what the tests make, and not at the modules each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _no_stale_log_handlers() -> None:
    """Remove handlers that write to an earlier test's captured streams, which are closed by now."""
    for handler in list(logging.root.handlers):
        if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "closed", False):
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SVD checkpoint of stock classes that makes a 3-frame clip of 32x32 px in a fraction of a second."""
    from pocket.architecture import make_random_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    make_random_checkpoint(folder, "tiny", 0)
    return folder


@pytest.fixture(scope="session")
def medium_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the published architecture at a fifth of its widths, 67 M parameters."""
    from pocket.architecture import make_random_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "medium"
    make_random_checkpoint(folder, "medium", 0)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of different sizes and formats."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, size in (("a.png", (40, 40)), ("b.jpg", (64, 48)), ("c.webp", (50, 90))):
        pixels = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def pets(pictures: Path) -> Path:
    """The manifest of `pictures`."""
    from svd_batch.manifest import write_manifest

    out = pictures / "pets.parquet"
    write_manifest(pictures, out)
    return out


@pytest.fixture
def tiny(tiny_checkpoint: Path) -> list[str]:
    """Overrides that put the tiny checkpoint in place of pocket, at 2 steps."""
    return tiny_overrides(tiny_checkpoint)


def tiny_overrides(folder: Path, steps: int = 2) -> list[str]:
    """Return the overrides for a checkpoint that `make_random_checkpoint` wrote in size tiny."""
    shape = ["model.num_frames=3", "model.height=32", "model.width=32"]
    return [f"model.id={folder}", "model.name=tiny", *shape, f"generation.num_inference_steps={steps}"]


@pytest.fixture(scope="module")
def no_torch() -> Iterator[None]:
    """Runs in this process have the crash test's engine, which takes no time: for what isn't about a model's pixels."""
    from builders import engine_without_torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svd_batch.stages._make_engine", engine_without_torch)
        yield


@pytest.fixture
def real_engine(no_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a module with `no_torch`, a test with the engine itself."""
    monkeypatch.setattr("svd_batch.stages._make_engine", REAL_ENGINE)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """`python -m svd_batch ARGUMENTS` in a process of its own, in an empty folder."""

    def call(*arguments: object, timeout: float = PATIENCE_S, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "svd_batch", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture
def cli_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`svd-batch ARGUMENTS` in this process, in an empty folder; what was printed before is lost."""
    from svd_batch import cli as command_line

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = list(map(str, arguments))
        capfd.readouterr()
        code = command_line.main(words)
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, printed.out, printed.err)

    return call


@pytest.fixture
def c_compiler() -> None:
    """A C compiler that builds the engine's functions (engine/native.py)."""
    from parts import need

    from svd_batch.engine.native import is_x86

    need("a C compiler for an x86 processor", is_x86() and any(map(shutil.which, ("gcc", "cc"))))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without one."""
    from svd_batch.engine import native

    monkeypatch.setattr(shutil, "which", lambda name: None)
    native._built.cache_clear()
    yield
    native._built.cache_clear()
