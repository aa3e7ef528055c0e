"""The engine: every setting reaches the pipeline, and the pixels are stock diffusers' own."""

from __future__ import annotations

import dataclasses
import inspect
import json
import mmap
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableVideoDiffusionPipeline
from diffusers.schedulers import AysSchedules
from parts import need
from PIL import Image

from svd_batch.cli import conf_dir
from svd_batch.config import Compile, Dtype, MemoryConfig, ModelConfig, Offload, SpeedConfig
from svd_batch.engine.embedding import ImageEncoder
from svd_batch.engine.machine import check_machine, peak_resident_bytes
from svd_batch.engine.memory import apply_speed
from svd_batch.engine.pipeline import Engine
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline
from svd_batch.errors import ItemTimeoutError, StoppingError, UserError
from svd_batch.records import SweepCell

CELL = SweepCell(127, 0.02, 7, 2, 1.0, 3.0, 2)
PICTURE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def tiny_model(folder: Path, **changes: Any) -> ModelConfig:
    return ModelConfig(id=str(folder), name="tiny", **{"num_frames": 3, "height": 32, "width": 32, **changes})


SHORTCUTS = [f.name for f in dataclasses.fields(SpeedConfig) if f.name not in ("batch_size", "compile")]
OFF = SpeedConfig(batch_size=1, compile=Compile.off, **dict.fromkeys(SHORTCUTS, False))


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine(tiny_checkpoint, tiny_model(tiny_checkpoint), MemoryConfig(), SpeedConfig(), torch_threads=1)


def received(engine: Engine, cell: SweepCell, seed: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the arguments with which the pipeline is called; it still makes the video."""
    calls: list[dict[str, Any]] = []
    stock = SVDSweepPipeline.__call__

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(stock).bind(self, *args, **kwargs).arguments
        calls.append({**bound, "generator": bound["generator"].initial_seed()})
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(SVDSweepPipeline, "__call__", spy)
    engine.generate(PICTURE, cell, seed)
    return calls[0]


def stock_frames(tiny_checkpoint: Path) -> np.ndarray:
    """Return the frames (T, H, W, 3) uint8 of CELL, seed 5, by stock diffusers."""
    stock = StableVideoDiffusionPipeline.from_pretrained(tiny_checkpoint, variant="fp16", torch_dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    frames = stock(
        Image.fromarray(PICTURE),
        height=32,
        width=32,
        num_frames=3,
        num_inference_steps=2,
        decode_chunk_size=2,
        generator=torch.manual_seed(5),
    ).frames[0]
    return np.stack([np.asarray(f) for f in frames])


def test_without_shortcuts_pixels_equal_the_stock_pipelines_to_the_bit(tiny_checkpoint: Path) -> None:
    engine = Engine(tiny_checkpoint, tiny_model(tiny_checkpoint), MemoryConfig(), OFF, torch_threads=1)
    assert np.array_equal(engine.generate(PICTURE, CELL, 5).frames, stock_frames(tiny_checkpoint))


def test_with_every_shortcut_pixels_are_at_most_one_step_from_the_stock_pipelines(
    engine: Engine, tiny_checkpoint: Path
) -> None:
    ours = engine.generate(PICTURE, CELL, 5).frames
    assert np.abs(ours.astype(int) - stock_frames(tiny_checkpoint)).max() <= 1


def test_speed_off_in_conf_turns_every_shortcut_off() -> None:
    settings = yaml.safe_load((conf_dir() / "speed" / "off.yaml").read_text())
    assert SpeedConfig(**{**settings, "compile": Compile(settings["compile"])}) == OFF


@pytest.mark.parametrize("name", [name for name in SHORTCUTS if name != "keep_memory"])
def test_each_shortcut_reaches_the_pipeline_by_itself(name: str, tiny_checkpoint: Path) -> None:
    speed = dataclasses.replace(OFF, **{name: True})
    engine = Engine(tiny_checkpoint, tiny_model(tiny_checkpoint), MemoryConfig(), speed, torch_threads=1)
    kinds = {type(module).__name__ for module in (*engine.pipe.unet.modules(), *engine.pipe.vae.decoder.modules())}
    switches = getattr(engine.pipe.unet, "switches", None)
    taken = {
        "collapse_cross_attention": bool(switches and switches.collapse_cross_attention),
        "hoist_invariants": "FastResBlock" in kinds,
        "slice_feed_forward": bool(switches and switches.slice_feed_forward),
        "split_geglu": "GegluLinear" in kinds,
        "onednn_linear": "OneDnnLinear" in kinds,
        "onednn_conv": "OneDnnConv" in kinds,
        "split_upsample": "FastUpsample" in kinds,
        "temporal_conv2d": "TemporalConv" in kinds,
        "channels_last": "FastGroupNorm" in kinds,
        "fused_group_norm": "FusedGroupNorm" in kinds,
        "winograd": "WinogradConv" in kinds,
        "fused_feed_forward": "FusedFeedForward" in kinds,
        "reuse_conditioning": engine.pipe.known is not None,
    }
    assert [key for key, is_taken in taken.items() if is_taken] == [name]


@pytest.mark.parametrize("name", ["channels_last", "slice_feed_forward", "temporal_conv2d"])
@pytest.mark.parametrize(
    ("value", "device_type", "taken"),
    [("auto", "cpu", True), ("auto", "cuda", False), (True, "cuda", True), (False, "cpu", False)],
)
def test_what_auto_leaves_off_on_a_gpu_can_be_switched_on_there(
    name: str, value: object, device_type: str, taken: bool, tiny_checkpoint: Path
) -> None:
    pipe = SVDSweepPipeline.from_pretrained(tiny_checkpoint, variant="fp16")
    apply_speed(
        pipe, dataclasses.replace(OFF, collapse_cross_attention=True, **{name: value}), MemoryConfig(), device_type
    )
    kinds = {type(module).__name__ for module in pipe.unet.modules()}
    found = {
        "channels_last": "FastGroupNorm" in kinds,
        "slice_feed_forward": pipe.unet.switches.slice_feed_forward,
        "temporal_conv2d": "TemporalConv" in kinds,
    }
    assert found[name] is taken


def test_the_same_call_twice_gives_the_same_pixels(engine: Engine) -> None:
    first = engine.generate(PICTURE, CELL, 5).frames
    engine.generate(PICTURE, dataclasses.replace(CELL, num_inference_steps=3), 6)
    assert np.array_equal(engine.generate(PICTURE, CELL, 5).frames, first)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("motion_bucket_id", 20),
        ("noise_aug_strength", 0.3),
        ("fps", 14),
        ("num_inference_steps", 3),
        ("min_guidance_scale", 2.0),
        ("max_guidance_scale", 5.0),
        ("decode_chunk_size", 1),
        ("guidance_sigma_min", 1.0),
        ("guidance_sigma_max", 100.0),
        ("deep_cache_interval", 2),
    ],
)
def test_each_field_of_a_cell_reaches_the_pipeline_and_changes_pixels(
    field: str, value: float, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "keep_pixels", True)  # a random model's answer to fps can be lost in rounding
    changed = dataclasses.replace(CELL, **{field: value})
    before, again, after = (engine.generate(PICTURE, cell, 5).pixels for cell in (CELL, CELL, changed))
    assert received(engine, changed, 5, monkeypatch)[field] == value
    assert np.array_equal(before, again)
    assert not np.array_equal(before, after)


def test_the_sampler_reaches_the_pipeline_as_noise_levels_and_changes_pixels(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = dataclasses.replace(CELL, num_inference_steps=10)
    short = dataclasses.replace(exact, sampler="ays10")
    before, after = engine.generate(PICTURE, exact, 5).frames, engine.generate(PICTURE, short, 5).frames
    assert received(engine, short, 5, monkeypatch)["sigmas"] == AysSchedules["StableDiffusionVideoSigmas"]
    assert not np.array_equal(before, after)


def test_the_seed_reaches_the_pipeline_and_changes_pixels(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = engine.generate(PICTURE, CELL, 5).frames, engine.generate(PICTURE, CELL, 6).frames
    assert received(engine, CELL, 6, monkeypatch)["generator"] == 6
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(("key", "value"), [("num_frames", 2), ("height", 64), ("width", 48)])
def test_the_shape_of_the_model_reaches_the_pipeline_and_the_frames(
    key: str, value: int, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Engine(tiny_checkpoint, tiny_model(tiny_checkpoint, **{key: value}), MemoryConfig(), SpeedConfig())
    assert received(other, CELL, 5, monkeypatch)[key] == value
    shape = dict(zip(("num_frames", "height", "width"), other.generate(PICTURE, CELL, 5).frames.shape, strict=False))
    assert shape[key] == value


def test_dtype_reaches_every_part(tiny_checkpoint: Path) -> None:
    engine = Engine(tiny_checkpoint, tiny_model(tiny_checkpoint, dtype=Dtype.bfloat16), MemoryConfig(), SpeedConfig())
    assert {p.dtype for p in (engine.pipe.unet, engine.pipe.vae, engine.pipe.image_encoder)} == {torch.bfloat16}


def test_torch_threads_is_what_computes(tiny_checkpoint: Path) -> None:
    before = torch.get_num_threads()
    try:
        engine = Engine(tiny_checkpoint, tiny_model(tiny_checkpoint), MemoryConfig(), SpeedConfig(), torch_threads=2)
        assert engine.generate(PICTURE, CELL, 5).torch_threads == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_forward_chunking_reaches_the_unet_and_keeps_the_pixels(engine: Engine, tiny_checkpoint: Path) -> None:
    chunked = Engine(tiny_checkpoint, tiny_model(tiny_checkpoint), MemoryConfig(forward_chunking=True), OFF, 1)
    ours, theirs = chunked.generate(PICTURE, CELL, 5).frames, engine.generate(PICTURE, CELL, 5).frames
    assert chunked.pipe.unet.mid_block.attentions[0].transformer_blocks[0]._chunk_size == 1  # stock's own way
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_float16_without_a_gpu_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="float16 needs a CUDA GPU"):
        check_machine(ModelConfig(dtype=Dtype.float16), MemoryConfig(), "cpu")


def test_split_guidance_reaches_the_pipeline_and_keeps_the_pixels(engine: Engine, tiny_checkpoint: Path) -> None:
    split = Engine(tiny_checkpoint, tiny_model(tiny_checkpoint), MemoryConfig(split_guidance=True), SpeedConfig(), 1)
    ours, theirs = split.generate(PICTURE, CELL, 5).frames, engine.generate(PICTURE, CELL, 5).frames
    assert split.pipe.split_guidance
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("offload", [Offload.model, Offload.sequential])
def test_offload_without_a_gpu_is_refused_in_a_sentence(offload: Offload) -> None:
    with pytest.raises(UserError, match=f"memory.offload: {offload.value} needs a CUDA GPU"):
        check_machine(ModelConfig(), MemoryConfig(offload=offload), "cpu")


def test_each_phase_of_a_video_is_timed_and_none_is_counted_twice(engine: Engine) -> None:
    made = engine.generate(PICTURE, CELL, 5)
    phases = [made.condition_s, made.denoise_s, made.decode_s]
    assert min(phases) > 0
    assert sum(phases) <= made.generate_s


def test_unrounded_pixels_are_handed_on_where_asked_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.generate(PICTURE, CELL, 5).pixels is None
    monkeypatch.setattr(engine, "keep_pixels", True)
    made = engine.generate(PICTURE, CELL, 5)
    assert made.pixels is not None
    assert made.pixels.dtype == np.float32
    assert np.array_equal((made.pixels * 255).round().astype(np.uint8), made.frames)


def test_nan_from_the_model_is_an_error_and_not_a_black_video(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = SVDSweepPipeline.decode_latents
    monkeypatch.setattr(SVDSweepPipeline, "decode_latents", lambda *a, **k: decode(*a, **k) * float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        engine.generate(PICTURE, CELL, 5)


def test_the_peak_memory_on_a_cpu_is_this_videos_and_not_the_processs(engine: Engine) -> None:
    need("a peak that can be reset (Linux)", Path("/proc/self/clear_refs").exists())
    before = mmap.mmap(-1, 2**29)  # not by malloc, which may have been told to keep what is freed
    before.write(b"1" * 2**29)
    high = peak_resident_bytes()
    before.close()
    assert engine.generate(PICTURE, CELL, 5).peak_memory_bytes < high - 2**28


def test_weights_of_another_checkpoint_are_refused_before_they_are_read(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "mixed"))
    config = folder / "unet/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layers_per_block": 2}))
    with pytest.raises(UserError, match="the weights in .*unet don't fit its config.json"):
        Engine(folder, tiny_model(folder), MemoryConfig(), SpeedConfig())


def test_the_bundled_checkpoint_loads_and_makes_a_clip() -> None:
    from svd_batch.checkpoint import bundled_checkpoint

    engine = Engine(bundled_checkpoint(), ModelConfig(), MemoryConfig(), SpeedConfig())
    picture = np.full((64, 96, 3), 128, np.uint8)
    frames = engine.generate(picture, dataclasses.replace(CELL, decode_chunk_size=8), 1).frames
    assert frames.shape == (8, 64, 96, 3)
    assert frames.dtype == np.uint8


def test_embeddings_are_those_that_stock_conditions_on(engine: Engine) -> None:
    pictures = [PICTURE, 255 - PICTURE, PICTURE[::-1].copy()]
    images = [Image.fromarray(picture) for picture in pictures]
    with torch.no_grad():
        stock = StableVideoDiffusionPipeline._encode_image(engine.pipe, images, torch.device("cpu"), 1, False)
    assert np.allclose(engine.embed(pictures), stock[:, 0].numpy(), atol=1e-5)


def test_an_encoder_by_itself_says_the_same(engine: Engine, tiny_checkpoint: Path) -> None:
    encoder = ImageEncoder(tiny_checkpoint, tiny_model(tiny_checkpoint))
    many = [PICTURE] * 9 + [255 - PICTURE]  # more than go at once
    assert np.allclose(encoder.embed(many), engine.embed(many), atol=1e-6)


# --- videos that take too long, and runs that are stopped ---------------------------------------------------------


def with_limit(folder: Path, seconds: float | None, **speed: Any) -> Engine:
    settings = dataclasses.replace(OFF, **speed)
    model = tiny_model(folder)
    return Engine(folder, model, MemoryConfig(), settings, torch_threads=2, item_timeout_s=seconds)


def test_a_video_that_takes_too_long_fails_with_limit_and_step_and_the_next_is_as_ever(tiny_checkpoint: Path) -> None:
    engine = with_limit(tiny_checkpoint, 1e-6)
    (future,) = engine.generate_batch(PICTURE, [(dataclasses.replace(CELL, num_inference_steps=40), 5)])
    with pytest.raises(ItemTimeoutError, match=r"longer than item_timeout_s=1e-06: .* s at the end of .*step 1 of 40"):
        future.result()
    engine.item_timeout_s = 600.0
    assert np.array_equal(engine.generate(PICTURE, CELL, 5).frames, stock_frames(tiny_checkpoint))


def test_the_videos_of_a_batch_share_its_clock(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *[1.5] * 100])  # at the start of the batch, then at each step
    monkeypatch.setattr("svd_batch.engine.pipeline.time.monotonic", lambda: next(clock))
    two = with_limit(tiny_checkpoint, 1.0, batch_size=2).generate_batch(PICTURE, [(CELL, 5), (CELL, 6)])
    assert [future.exception() for future in two] == [None, None]
    clock = iter([0.0, *[1.5] * 100])
    (one,) = with_limit(tiny_checkpoint, 1.0).generate_batch(PICTURE, [(CELL, 5)])
    assert isinstance(one.exception(), ItemTimeoutError)


def test_videos_of_one_call_that_take_too_long_are_not_made_again_one_by_one(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calls = with_limit(tiny_checkpoint, 1e-6), []
    call = Engine._call

    def counted(self: Engine, pipe: Any, picture: Any, asked: Any, stop: Any) -> Any:
        calls.append(len(asked))
        return call(self, pipe, picture, asked, stop)

    monkeypatch.setattr(Engine, "_call", counted)
    both = engine._together(PICTURE, [(CELL, 5), (CELL, 6)])
    assert [type(future.exception()) for future in both] == [ItemTimeoutError] * 2
    assert calls == [2]


def test_an_engine_that_is_cancelled_drops_what_it_is_making(tiny_checkpoint: Path) -> None:
    engine = with_limit(tiny_checkpoint, None)
    engine.cancel()
    (future,) = engine.generate_batch(PICTURE, [(CELL, 5)])
    assert isinstance(future.exception(), StoppingError)
