"""Memory profiles: what each is, that none changes pixels, which one auto takes, and what follows an out-of-memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import cpu_offload
from builders import make_cell, make_image, run_python
from PIL import Image

from svd_batch import cli
from svd_batch.bench import OFF
from svd_batch.cli import conf_dir
from svd_batch.config import (
    Compile,
    Config,
    MemoryConfig,
    ModelConfig,
    Offload,
    SpeedConfig,
    VideoConfig,
)
from svd_batch.engine.memory import apply_speed, is_out_of_memory, place, recover, set_activations
from svd_batch.engine.pipeline import Engine
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline
from svd_batch.errors import UserError
from svd_batch.load import LoadedUnit
from svd_batch.plan import Request, Seeds, heaviest_cell, make_plan
from svd_batch.profiles import COMPILES, PROFILES, candidates, check_compile, next_profile, profile_name
from svd_batch.records import FailureRecord, PlannedVideo, SweepCell, VideoRecord, WorkUnit
from svd_batch.settings import GenerateSettings
from svd_batch.stages import Generate
from svd_batch.store import Store

CELL = SweepCell(127, 0.02, 7, 2, 1.0, 3.0, 2)
PICTURE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
ON_GPU = SpeedConfig(onednn_linear=False)
"""The shortcuts that a GPU has, too."""
GIB = 2**30


def tiny_model(folder: Path) -> ModelConfig:
    return ModelConfig(id=str(folder), name="tiny", num_frames=3, height=32, width=32)


def tiny_engine(folder: Path, memory: MemoryConfig | None = None, **options: Any) -> Engine:
    return Engine(folder, tiny_model(folder), memory or MemoryConfig(), options.pop("speed", OFF), 1, **options)


# --- the profiles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_the_settings_that_conf_shows(name: str) -> None:
    shown = yaml.safe_load((conf_dir() / f"memory/{name}.yaml").read_text())
    assert dataclasses.asdict(PROFILES[name]) | {"offload": PROFILES[name].offload.value} == shown


def test_settings_of_ones_own_are_custom() -> None:
    assert profile_name(MemoryConfig(split_guidance=True)) == "custom"
    assert [profile_name(memory) for memory in PROFILES.values()] == list(PROFILES)


def test_a_cpu_has_no_use_for_offload() -> None:
    assert candidates("cpu") == ["fast", "balanced"]
    assert candidates("cuda") == list(PROFILES)


@pytest.mark.parametrize(
    ("memory", "device", "following"),
    [
        (PROFILES["fast"], "cuda", "balanced"),
        (PROFILES["balanced"], "cuda", "low"),
        (PROFILES["low"], "cuda", "minimal"),
        (PROFILES["minimal"], "cuda", None),
        (PROFILES["fast"], "cpu", "balanced"),
        (PROFILES["balanced"], "cpu", None),
        (MemoryConfig(split_guidance=True), "cuda", "low"),
        (MemoryConfig(split_guidance=True), "cpu", None),
    ],
)
def test_the_next_profile_saves_all_that_the_last_one_did(
    memory: MemoryConfig, device: str, following: str | None
) -> None:
    assert next_profile(memory, device) == following


def test_auto_excludes_settings_of_ones_own() -> None:
    with pytest.raises(UserError, match=r"memory\.auto: it chooses offload"):
        MemoryConfig(auto=True, split_guidance=True)


def test_auto_excludes_reproducible() -> None:
    with pytest.raises(UserError, match=r"memory\.auto: it goes by what is free, and reproducible=true fixes all"):
        Config(memory=MemoryConfig(auto=True), reproducible=True)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("mode", list(Compile))
def test_compilation_that_is_asked_for_goes_with_the_profiles_of_the_table(name: str, mode: Compile) -> None:
    memory, speed = PROFILES[name], SpeedConfig(compile=mode)
    if mode in (Compile.off, Compile.auto) or COMPILES[memory.offload] is None:
        check_compile(memory, speed)
        return
    with pytest.raises(UserError, match=rf"speed\.compile: {mode.value} doesn't go with memory\.offload="):
        check_compile(memory, speed)


def test_a_refused_combination_is_one_sentence_before_anything_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "memory=low", "speed.compile=whole"]) == 2
    assert "give memory=fast or memory=balanced, or speed.compile=auto" in capsys.readouterr().err


# --- pixels -----------------------------------------------------------------------------------------------------


def frames(folder: Path, speed: SpeedConfig, change: Callable[[SVDSweepPipeline], None]) -> np.ndarray:
    """Return the frames (T, H, W, 3) in [0, 1] of a pipeline after a change."""
    pipe = SVDSweepPipeline.from_pretrained(folder, variant="fp16", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    apply_speed(pipe, speed, MemoryConfig(), "cuda")  # as on a GPU: no slices unless the profile brings them
    change(pipe)
    result = pipe(
        Image.fromarray(PICTURE),
        height=32,
        width=32,
        num_frames=3,
        num_inference_steps=2,
        decode_chunk_size=2,
        generator=torch.manual_seed(5),
        output_type="np",
    )
    return np.asarray(result.frames[0])


def take_profile(pipe: SVDSweepPipeline, memory: MemoryConfig) -> None:
    """Do what the engine does, with the CPU in the GPU's place.

    diffusers gives accelerate the device `cpu:0`, which a CPU's tensors are never on, so the hooks of single layers
    are set without it.
    """
    set_activations(pipe, memory)
    if memory.offload is not Offload.sequential:
        place(pipe, memory, torch.device("cpu"))
        return
    pipe.remove_all_hooks()
    for part in (pipe.unet, pipe.vae, pipe.image_encoder):
        cpu_offload(part, torch.device("cpu"))


@pytest.mark.parametrize("speed", [OFF, ON_GPU], ids=["stock", "exact"])
@pytest.mark.parametrize("name", ["balanced", "low", "minimal"])
def test_no_profile_changes_pixels(name: str, speed: SpeedConfig, tiny_checkpoint: Path) -> None:
    def take(pipe: SVDSweepPipeline) -> None:
        take_profile(pipe, PROFILES[name])

    changed = frames(tiny_checkpoint, speed, take)
    assert np.abs(changed - frames(tiny_checkpoint, speed, lambda pipe: None)).max() < 1e-4


def test_stepping_down_through_every_profile_keeps_the_pixels(tiny_checkpoint: Path) -> None:
    def take(pipe: SVDSweepPipeline) -> None:
        for memory in PROFILES.values():
            take_profile(pipe, memory)

    changed = frames(tiny_checkpoint, ON_GPU, take)
    assert np.abs(changed - frames(tiny_checkpoint, ON_GPU, lambda pipe: None)).max() < 1e-4


def test_a_vae_that_was_left_in_float32_comes_back(tiny_checkpoint: Path) -> None:
    pipe = SVDSweepPipeline.from_pretrained(tiny_checkpoint, variant="fp16", torch_dtype=torch.float16)
    pipe.vae.to(torch.float32)
    recover(pipe, torch.float16)
    assert pipe.vae.dtype == torch.float16


# --- what fits --------------------------------------------------------------------------------------------------


def test_the_heaviest_cell_has_the_largest_of_each_field_that_counts() -> None:
    cells = [make_cell(decode_chunk_size=2, max_guidance_scale=3.0), make_cell(decode_chunk_size=4)]
    images = [make_image("a"), make_image("b", fixed=(("decode_chunk_size", 6),))]
    plan = make_plan(images, Request(cells, Seeds(), {}))
    assert heaviest_cell(plan).decode_chunk_size == 6
    assert heaviest_cell(plan).max_guidance_scale == 3.0


def test_the_engine_takes_autos_choice_and_tells_it(tiny_checkpoint: Path) -> None:
    engine = tiny_engine(tiny_checkpoint, MemoryConfig(auto=True), heaviest=CELL)
    assert engine.memory == PROFILES["fast"]
    assert engine.notes[0].startswith("memory=auto took fast")
    assert engine.generate(PICTURE, CELL, 5).memory_profile == "fast"


def test_an_engine_without_room_refuses_before_it_loads(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="not even decode_chunk_size=1 fits"):
        tiny_engine(tiny_checkpoint, MemoryConfig(auto=True), heaviest=CELL, memory_share=1e-9)


# --- out of memory ------------------------------------------------------------------------------------------------


def fail_at_the_unet(engine: Engine, times: int, error: BaseException | None = None) -> None:
    """Let the UNet of a real engine run out of memory so many times."""
    left = [times]

    def run_out(*_: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.25 GiB.")

    engine.pipe.unet.register_forward_pre_hook(run_out)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried …"),
        MemoryError(),
    ],
)
def test_what_says_that_memory_ran_out_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("NaN"), None])
def test_what_says_something_else_is_not(error: BaseException | None) -> None:
    assert not is_out_of_memory(error)


def test_running_out_steps_down_one_profile_and_makes_the_same_video(tiny_checkpoint: Path) -> None:
    engine = tiny_engine(tiny_checkpoint)
    fail_at_the_unet(engine, times=1)
    made = engine.generate(PICTURE, CELL, 5)
    balanced = tiny_engine(tiny_checkpoint, PROFILES["balanced"]).generate(PICTURE, CELL, 5)
    assert made.memory_profile == "balanced"
    assert np.array_equal(made.frames, balanced.frames)


def test_after_a_step_down_the_engine_stays_there_and_says_so_once(tiny_checkpoint: Path) -> None:
    engine = tiny_engine(tiny_checkpoint)
    fail_at_the_unet(engine, times=1)
    made = [engine.generate(PICTURE, CELL, seed).memory_profile for seed in (5, 6)]
    assert made == ["balanced", "balanced"]
    (note,) = engine.notes
    assert note.startswith("out of memory with memory=fast: memory=balanced from here on")


def test_the_last_profile_failing_names_the_memory_that_is_needed(tiny_checkpoint: Path) -> None:
    engine = tiny_engine(tiny_checkpoint)
    fail_at_the_unet(engine, times=2)
    (future,) = engine.generate_batch(PICTURE, [(CELL, 5)])
    assert "out of memory with memory=balanced, and no profile takes less here: about " in str(future.exception())
    assert "are needed at decode_chunk_size=2" in str(future.exception())


def test_a_batch_is_halved_before_a_profile_steps_down(tiny_checkpoint: Path) -> None:
    engine = tiny_engine(tiny_checkpoint)
    fail_at_the_unet(engine, times=1)
    made = [f.result() for f in engine.generate_batch(PICTURE, [(CELL, 5), (CELL, 6)])]
    assert engine.memory == PROFILES["fast"]
    assert [video.memory_profile for video in made] == ["fast", "fast"]
    for video, seed in zip(made, (5, 6), strict=True):
        assert np.array_equal(video.frames, tiny_engine(tiny_checkpoint).generate(PICTURE, CELL, seed).frames)


def test_after_a_step_down_the_threads_of_before_make_the_batches(tiny_checkpoint: Path) -> None:
    engine = tiny_engine(tiny_checkpoint)
    engine.generate_batch(PICTURE, [(CELL, 5), (CELL, 6)])
    before = set(threading.enumerate())
    fail_at_the_unet(engine, times=1)
    engine.generate(PICTURE, CELL, 5)
    assert [f.result().memory_profile for f in engine.generate_batch(PICTURE, [(CELL, 5), (CELL, 6)])] == [
        "balanced"
    ] * 2
    assert set(threading.enumerate()) == before


def test_a_reproducible_run_never_steps_down(tiny_checkpoint: Path) -> None:
    engine = tiny_engine(tiny_checkpoint, steps_down=False)
    fail_at_the_unet(engine, times=1)
    (future,) = engine.generate_batch(PICTURE, [(CELL, 5)])
    assert "reproducible=true allows no other" in str(future.exception())
    assert engine.memory == PROFILES["fast"]


def generate_stage(folder: Path, output: Path, times: int) -> Generate:
    store = Store(output)
    store.create()
    settings = GenerateSettings(str(output), tiny_model(folder), "r", MemoryConfig(), VideoConfig(), "f", OFF)

    def make() -> Engine:
        engine = tiny_engine(folder)
        fail_at_the_unet(engine, times)
        return engine

    return Generate(settings, make)


@pytest.mark.parametrize(("times", "profile"), [(0, "fast"), (1, "balanced")])
def test_the_row_of_a_video_tells_the_profile_that_made_it(
    times: int, profile: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    stage = generate_stage(tiny_checkpoint, tmp_path / "out", times)
    unit = WorkUnit(make_image("cat"), (PlannedVideo("ab" * 10, CELL, 5, 0),))
    (row,) = stage(LoadedUnit(unit, PICTURE, "0" * 64, 0.0))
    notes = stage.take_notes()
    stage.close()
    assert isinstance(row, VideoRecord)
    assert (row.video_id, row.memory_profile) == ("ab" * 10, profile)
    assert len(notes) == times
    assert stage.take_notes() == []


def test_a_video_that_no_profile_has_room_for_is_a_failure_row(tiny_checkpoint: Path, tmp_path: Path) -> None:
    stage = generate_stage(tiny_checkpoint, tmp_path / "out", times=2)
    unit = WorkUnit(make_image("cat"), (PlannedVideo("ab" * 10, CELL, 5, 0), PlannedVideo("cd" * 10, CELL, 6, 0)))
    first, second = stage(LoadedUnit(unit, PICTURE, "0" * 64, 0.0))
    stage.close()
    assert isinstance(first, FailureRecord)
    assert "are needed at decode_chunk_size=2" in first.error_message
    assert isinstance(second, VideoRecord)


REAL_CODE = """
import dataclasses, resource, sys
from pathlib import Path
import numpy as np
import torch
from svd_batch.config import Compile, MemoryConfig, ModelConfig, SpeedConfig
from svd_batch.checkpoint_files import read_configs
from svd_batch.engine.fit import Demand
from svd_batch.engine.pipeline import Engine
from svd_batch.profiles import PROFILES
from svd_batch.records import SweepCell

folder = Path(sys.argv[1])
model = ModelConfig(id=sys.argv[1], name="tiny", num_frames=3, height=128, width=128)
switches = {field.name: False for field in dataclasses.fields(SpeedConfig)}
speed = SpeedConfig(**{**switches, "batch_size": 1, "compile": Compile.off})
cell = SweepCell(127, 0.02, 7, 1, 1.0, 3.0, 1)
picture = np.zeros((128, 128, 3), np.uint8)
demand = Demand(read_configs(folder), model, speed, cell, "cpu")
fast, balanced = (demand.peak_bytes(PROFILES[name]) for name in ("fast", "balanced"))
truth = Engine(folder, model, PROFILES["balanced"], speed, 1)
expected = truth.generate(picture, cell, 5).frames
engine = Engine(folder, model, MemoryConfig(), speed, 1)
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (fast + balanced) // 2, -1))
made = engine.generate(picture, cell, 5)
print(made.memory_profile, np.array_equal(made.frames, expected), fast >> 20, balanced >> 20)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_an_allocation_that_the_system_refuses_steps_down(tmp_path: Path) -> None:
    """Attention in the uppermost level lets the feed-forward layers decide the peak."""
    from pocket.architecture import SIZES, build_pipeline, save_pipeline

    size = dataclasses.replace(
        SIZES["tiny"], unet_levels="A-", up_levels="-A", unet_channels=(64, 32), unet_heads=(2, 1)
    )
    save_pipeline(build_pipeline(size, 0), tmp_path)
    done = run_python(REAL_CODE, str(tmp_path), MALLOC_MMAP_THRESHOLD_="65536", MALLOC_ARENA_MAX="1")
    assert done.stdout.split()[:2] == ["balanced", "True"], done.stdout
