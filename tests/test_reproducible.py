"""reproducible=true: the same pixels to the bit for any number of actors, in any order and after a resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from builders import interrupted
from conftest import PATIENCE_S, tiny_overrides

from svd_batch import cli as command_line
from svd_batch.engine import machine
from svd_batch.errors import UserError
from svd_batch.video import read_frames

Finished = dict[str, str]
"""The video_id of each video of a finished run with the SHA-256 of its file."""
NUM_VIDEOS = 12


class Runs:
    """Runs of one job in one folder, each with other circumstances."""

    def __init__(self, folder: Path, checkpoint: Path, manifest: Path) -> None:
        self.folder, self.manifest = folder, manifest
        sweep = ["sweep.motion_bucket_id=[20,240]", "sweep.noise_aug_strength=[0.02,0.3]"]
        self.job = [*tiny_overrides(checkpoint, steps=4), *sweep, "video=ffv1", "reproducible=true"]

    def arguments(self, name: str, *overrides: str, manifest: Path | None = None) -> list[str]:
        """Return the arguments of one run into the folder `name`."""
        where = [f"manifest={manifest or self.manifest}", f"output={self.folder / name}"]
        return ["run", *self.job, *where, *overrides]

    def on_ray(self, name: str, num_actors: int, manifest: Path | None = None) -> Finished:
        """Run to the end with so many actors and return what came out."""
        actors = ["backend.num_cpus=0.25", f"backend.num_actors={num_actors}"]
        command = [sys.executable, "-m", "svd_batch", *self.arguments(name, *actors, manifest=manifest)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment(), timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        return self.finished(name)

    def in_this_process(self, name: str, *overrides: str) -> int:
        """Run without Ray and return the exit code."""
        return command_line.main(self.arguments(name, "backend=serial", *overrides))

    def finished(self, name: str) -> Finished:
        """Return what a run has made."""
        return {row["video_id"]: row["video_sha256"] for row in self.rows(name)}

    def rows(self, name: str) -> list[dict[str, object]]:
        """Return the table of a run, by id."""
        return sorted(pq.read_table(self.folder / name / "metadata.parquet").to_pylist(), key=lambda r: r["video_id"])

    def frames(self, name: str) -> np.ndarray:
        """Return all videos of a run, by id: (N, T, H, W, 3)."""
        return np.stack([read_frames(self.folder / name / str(row["file_name"]))[0] for row in self.rows(name)])


def environment() -> dict[str, str]:
    """Return this environment without what conftest fixes for speed: the runs are to fix their threads themselves."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


@pytest.fixture(scope="module")
def runs(tiny_checkpoint: Path, pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("reproducible"), tiny_checkpoint, pets)


@pytest.fixture(scope="module")
def alone(runs: Runs) -> Finished:
    """One process without Ray, pictures in the manifest's order."""
    assert runs.in_this_process("alone") == 0
    return runs.finished("alone")


@pytest.fixture(scope="module")
def three_actors(runs: Runs) -> Finished:
    """Three actors on Ray, pictures in another order."""
    table = pq.read_table(runs.manifest)
    absolute = [str(runs.manifest.parent / name) for name in table["image_path"].to_pylist()]
    table = table.set_column(0, "image_path", [absolute]).append_column("image_id", [image_ids(runs)])
    shuffled = runs.folder / "shuffled.parquet"
    pq.write_table(table.take([2, 0, 1]), shuffled)
    return runs.on_ray("three_actors", num_actors=3, manifest=shuffled)


def image_ids(runs: Runs) -> list[str]:
    """Return the ids that the rows of the manifest had, in its order."""
    from svd_batch.manifest import read_manifest

    return [image.image_id for image in read_manifest([str(runs.manifest)]).images]


def test_three_actors_and_shuffled_rows_make_the_same_files(
    runs: Runs, alone: Finished, three_actors: Finished
) -> None:
    assert len(alone) == NUM_VIDEOS
    assert three_actors == alone
    assert np.array_equal(runs.frames("three_actors"), runs.frames("alone"))


def test_a_resumed_run_makes_the_same_files(runs: Runs, alone: Finished) -> None:
    arguments = runs.arguments("resumed", "backend=serial")
    stopped = interrupted(arguments, signal.SIGINT, runs.folder, env=environment())
    assert stopped.returncode == 130, stopped.stderr
    first = runs.finished("resumed")
    assert 0 < len(first) < NUM_VIDEOS
    assert first.items() <= alone.items()
    assert runs.in_this_process("resumed") == 0
    assert runs.finished("resumed") == alone


def test_threads_and_batch_are_in_the_table(runs: Runs, alone: Finished, three_actors: Finished) -> None:
    for name in ("alone", "three_actors"):
        assert {(row["torch_threads"], row["batch_size"]) for row in runs.rows(name)} == {(1, 1)}


def test_a_thread_more_changes_a_pixel_by_one_step_at_most(runs: Runs, alone: Finished) -> None:
    assert runs.in_this_process("two", "backend.torch_threads=2") == 0
    assert {row["torch_threads"] for row in runs.rows("two")} == {2}
    assert np.abs(runs.frames("two").astype(int) - runs.frames("alone")).max() <= 1


def test_a_folder_is_reproducible_as_a_whole_or_not_at_all(
    runs: Runs, alone: Finished, capfd: pytest.CaptureFixture[str]
) -> None:
    def refusal(override: str) -> str:
        assert runs.in_this_process("alone", override) == 2
        return capfd.readouterr().err

    assert "was made with reproducible=true; you asked for reproducible=false" in refusal("reproducible=false")
    threads = "was made with backend.torch_threads=1; you asked for backend.torch_threads=2"
    assert threads in refusal("backend.torch_threads=2")
    assert "was made with speed.onednn_linear=true" in refusal("speed.onednn_linear=false")


# --- the GPU's algorithms -----------------------------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that says it has a GPU; all of torch's switches are put back."""
    monkeypatch.setattr(machine, "device_type", lambda: "cuda")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32)
    yield
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("given", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", None])
def test_the_gpus_allocator_is_told_once_and_only_where_the_user_said_nothing(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in machine._ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(given, "max_split_size_mb:64")
    machine.grow_gpu_segments()
    said = {name: value for name in machine._ALLOCATOR_VARIABLES if (value := os.environ.pop(name, None))}
    assert said == ({given: "max_split_size_mb:64"} if given else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


def test_a_gpu_is_left_no_choice(cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    torch.backends.cudnn.benchmark = True
    machine.make_deterministic()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    assert torch.are_deterministic_algorithms_enabled()
    assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32) == (False, True, False, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_workspace_that_leaves_cublas_free_is_refused(cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG=:0:0 leaves cuBLAS free to choose; unset it or give"):
        machine.make_deterministic()


def test_a_cpu_with_fixed_threads_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "device_type", lambda: "cpu")
    machine.make_deterministic()
    assert not torch.are_deterministic_algorithms_enabled()
