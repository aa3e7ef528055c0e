"""What only a GPU can show: `scripts/test -n 0 -m gpu` on a machine that has one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from svd_batch.bench import OFF
from svd_batch.bench.stock import Stock
from svd_batch.checkpoint_files import read_configs
from svd_batch.config import Compile, Dtype, MemoryConfig, ModelConfig, SpeedConfig
from svd_batch.engine.estimate import estimate
from svd_batch.engine.fit import work_of
from svd_batch.engine.pipeline import Engine
from svd_batch.profiles import PROFILES
from svd_batch.records import SweepCell

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU"),
]

CELL = SweepCell(127, 0.02, 7, 3, 1.0, 3.0, 4)
EXACT = SpeedConfig(compile=Compile.off, batch_size=1)
PICTURE = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Convolve in float32 where it is asked for; torch's default rounds to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.cuda.empty_cache()


def model(folder: Path, dtype: Dtype = Dtype.float16, **changes: Any) -> ModelConfig:
    return ModelConfig(
        "medium", str(folder), None, "fp16", dtype, **{"num_frames": 6, "height": 192, "width": 256, **changes}
    )


def made(folder: Path, memory: MemoryConfig, speed: SpeedConfig, dtype: Dtype = Dtype.float16) -> Any:
    engine = Engine(folder, model(folder, dtype), memory, speed)
    engine.keep_pixels = True
    return engine.generate(PICTURE, CELL, 5)


def stock(folder: Path, dtype: Dtype = Dtype.float16) -> Any:
    return Stock(folder, model(folder, dtype), MemoryConfig()).generate(PICTURE, CELL, 5)


def apart(one: Any, other: Any) -> float:
    return float(np.abs(one.pixels - other.pixels).max())


def test_in_float32_every_shortcut_is_within_a_ten_thousandth_of_stock(medium_checkpoint: Path) -> None:
    ours = made(medium_checkpoint, MemoryConfig(), EXACT, Dtype.float32)
    assert apart(ours, stock(medium_checkpoint, Dtype.float32)) <= 1e-4


def test_without_shortcuts_the_pixels_are_stocks_to_the_bit(medium_checkpoint: Path) -> None:
    assert apart(made(medium_checkpoint, MemoryConfig(), OFF), stock(medium_checkpoint)) == 0


def test_in_float16_shortcuts_change_less_than_a_tenth_of_what_float16_itself_does(medium_checkpoint: Path) -> None:
    theirs = stock(medium_checkpoint)
    rounding = apart(theirs, stock(medium_checkpoint, Dtype.float32))
    assert 0 < apart(made(medium_checkpoint, MemoryConfig(), EXACT), theirs) < rounding / 10


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "fast"])
def test_a_profile_changes_no_frame_by_more_than_a_step(name: str, medium_checkpoint: Path) -> None:
    fast = made(medium_checkpoint, PROFILES["fast"], EXACT)
    other = made(medium_checkpoint, PROFILES[name], EXACT)
    assert other.memory_profile == name
    assert np.abs(other.frames.astype(int) - fast.frames).max() <= 1


@pytest.mark.parametrize("name", PROFILES)
def test_the_estimated_peak_is_within_15_percent_of_the_true_one(name: str, medium_checkpoint: Path) -> None:
    shape = model(medium_checkpoint, num_frames=14, height=384, width=512)
    engine = Engine(medium_checkpoint, shape, PROFILES[name], EXACT)
    picture = np.kron(PICTURE, np.ones((2, 2, 1), np.uint8))
    peak = engine.generate(picture, CELL, 5).peak_memory_bytes
    configs = read_configs(medium_checkpoint)
    said = estimate(configs, work_of(shape, CELL), PROFILES[name], EXACT, "cuda").peak_bytes
    assert said == pytest.approx(peak, rel=0.15)


def test_in_float32_videos_of_one_call_are_those_made_alone_up_to_a_step(medium_checkpoint: Path) -> None:
    engine = Engine(medium_checkpoint, model(medium_checkpoint, Dtype.float32), MemoryConfig(), EXACT)
    cells = [dataclasses.replace(CELL, motion_bucket_id=bucket) for bucket in (20, 127, 240)]
    together = [one.result() for one in engine.generate_batch(PICTURE, [(cell, 5) for cell in cells])]
    alone = [engine.generate(PICTURE, cell, 5) for cell in cells]
    assert [one.batch_size for one in together] == [3, 3, 3]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.frames.astype(int) - other.frames).max() <= 1


def test_out_of_memory_steps_down_and_makes_the_same_video(
    medium_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(medium_checkpoint, PROFILES["fast"], EXACT)
    engine = Engine(medium_checkpoint, model(medium_checkpoint), PROFILES["fast"], EXACT)
    weights = torch.cuda.memory_allocated()
    room = weights + 0.6 * (whole.peak_memory_bytes - weights)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        video = engine.generate(PICTURE, CELL, 5)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert video.memory_profile != "fast"
    assert engine.notes[0].startswith("out of memory with memory=fast: memory=balanced from here on")
    assert np.abs(video.frames.astype(int) - whole.frames).max() <= 1


def test_two_pictures_in_a_row_go_through_compiled_regions(medium_checkpoint: Path) -> None:
    shape = model(medium_checkpoint, Dtype.float32)
    plain, engine = (
        Engine(medium_checkpoint, shape, MemoryConfig(), dataclasses.replace(EXACT, compile=mode))
        for mode in (Compile.off, Compile.regional)
    )
    plain.keep_pixels = engine.keep_pixels = True
    for picture in (PICTURE, PICTURE[::-1].copy()):
        assert apart(*(side.generate(picture, CELL, 5) for side in (engine, plain))) <= 1e-4


def _run(*options: str) -> None:
    subprocess.run([sys.executable, "-m", "svd_batch", "run", *options], check=True, cwd=ROOT, timeout=300)


def _files(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "videos").rglob("*.mkv")}


def test_reproducible_runs_are_equal_to_the_bit(medium_checkpoint: Path, pets: Path, tmp_path: Path) -> None:
    options = (
        *(f"manifest={pets}", f"model.id={medium_checkpoint}", "model.dtype=float16", "model.num_frames=6"),
        *("model.height=192", "model.width=256", "generation.num_inference_steps=3", "video=ffv1", "reproducible=true"),
    )
    for name in ("one", "two"):
        _run(*options, "sweep.motion_bucket_id=[20,240]", f"output={tmp_path / name}", "backend=serial")
    assert len(_files(tmp_path / "one")) == 6
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_an_actor_of_ray_has_the_gpu(pets: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _run(f"manifest={pets}", "sweep.motion_bucket_id=[20,240]", f"output={output}", "backend=ray")
    rows = pq.read_table(output / "metadata.parquet").to_pylist()
    assert len(rows) == 6
    assert {row["device_name"] for row in rows} == {torch.cuda.get_device_name()}
