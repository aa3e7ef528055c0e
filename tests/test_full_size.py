"""The whole job on SVD-XT's very shapes with random weights: what to run before a GPU is rented.

`scripts/test -m slow`: a few minutes on two cores, 4.5 GB of disk, 8 GB of memory.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from conftest import Cli
from PIL import Image

from svd_batch.checkpoint import COMPONENTS, weight_files
from svd_batch.video import read_frames

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MEMORY = ["fast", "balanced"]
"""The settings that work without a GPU."""

ALLOWANCE_BYTES = 800 * 2**20
"""Python, torch, diffusers and the activations of two frames of 64x64 px: 0.57 GB measured."""


@pytest.fixture(scope="module")
def full_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """4.5 GB of random fp16 weights, removed after the module's last test."""
    from pocket.architecture import make_random_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "full"
    make_random_checkpoint(folder, "full", 0)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("memory", MEMORY)
def test_a_job_of_the_real_size_holds_no_weights_twice(
    memory: str, full_checkpoint: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "pictures/noise.png")
    assert cli("manifest", "pictures", "-o", "one.parquet").returncode == 0
    shape = ["model.dtype=bfloat16", "model.num_frames=2", "model.height=64", "model.width=64"]
    steps = ["generation.num_inference_steps=1", "backend=serial", f"memory={memory}"]
    job = ["run", "manifest=one.parquet", "output=out", f"model.id={full_checkpoint}", *shape, *steps]
    peak_bytes = peak_private_bytes([sys.executable, "-m", "svd_batch", *job], tmp_path)
    (row,) = pq.read_table(tmp_path / "out/metadata.parquet").to_pylist()
    assert (row["num_frames"], row["height"], row["width"], row["dtype"]) == (2, 64, 64, "bfloat16")
    assert row["load_s"] > 0
    assert read_frames(tmp_path / "out" / row["file_name"])[0].shape == (2, 64, 64, 3)
    files = [f for part, stem in COMPONENTS.items() for f in weight_files(full_checkpoint, part, stem, "fp16")]
    num_bytes = sum(f.stat().st_size for f in files)  # bfloat16 takes as much as float16
    print(f"memory={memory}: peak {peak_bytes / 1e9:.2f} GB, weights {num_bytes / 1e9:.2f} GB")
    assert num_bytes < peak_bytes < 1.15 * num_bytes + ALLOWANCE_BYTES


def peak_private_bytes(command: list[str], folder: Path) -> int:
    """Run a command that must succeed and return the most memory of its own that it held.

    Not `peak_memory_bytes`: that counts pages of the weight files too, which the system takes back when it likes.
    """
    most = 0
    with psutil.Popen(command, cwd=folder) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                most = max(most, memory.rss - memory.shared)
            time.sleep(0.05)
    assert process.returncode == 0
    return most
