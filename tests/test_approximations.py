"""What is opt-in and changes pixels: reused deep features, guidance within a band of sigmas, the short sampler."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.schedulers import AysSchedules

from svd_batch.engine.deep_cache import DeepCache
from svd_batch.engine.fast_unet import Switches, make_fast
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from pocket.architecture import SIZES, build_pipeline

PICTURE = PIL.Image.effect_noise((32, 32), 60).convert("RGB")
SHAPE: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 3, "num_inference_steps": 5, "decode_chunk_size": 2}
SIGMAS = [700.0, 40.0, 5.0, 0.6, 0.05, 0.0]


@pytest.fixture(scope="module", params=["stock UNet", "fast UNet"])
def pipe(request: pytest.FixtureRequest) -> SVDSweepPipeline:
    """The sweep pipeline, without and with the exact shortcuts."""
    made = SVDSweepPipeline(**build_pipeline(SIZES["tiny"], 0).components)
    made.set_progress_bar_config(disable=True)
    if request.param == "fast UNet":
        make_fast(made, Switches())
    return made


def clip(pipe: Any, seed: int = 5, **arguments: Any) -> torch.Tensor:
    """Return frames (T, 3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    frames: torch.Tensor = pipe(PICTURE, generator=generator, output_type="pt", **{**SHAPE, **arguments}).frames[0]
    return frames


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def counted(pipe: Any, module: torch.nn.Module, **arguments: Any) -> list[int]:
    """Return the batch of each call of a module of the pipeline's UNet."""
    batches: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        batches.append(len(args[0] if args else kwargs["hidden_states"]))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    clip(pipe, **arguments)
    handle.remove()
    return batches


# --- reused deep features ---------------------------------------------------------------------------------------


def test_an_interval_of_one_gives_the_exact_pixels_to_the_bit(pipe: Any) -> None:
    assert torch.equal(clip(pipe, deep_cache_interval=1), clip(pipe))


def test_a_whole_step_gives_the_exact_pixels_to_the_bit(pipe: Any) -> None:
    assert torch.equal(clip(pipe, deep_cache_interval=2, num_inference_steps=1), clip(pipe, num_inference_steps=1))


@pytest.mark.parametrize(("interval", "steps"), [(1, 5), (2, 3), (3, 2), (9, 1)])
def test_the_middle_of_the_unet_runs_at_every_nth_step(interval: int, steps: int, pipe: Any) -> None:
    frames = SHAPE["num_frames"]
    assert counted(pipe, pipe.unet.mid_block, deep_cache_interval=interval) == [2 * frames] * steps


def test_on_the_same_input_a_shallow_step_gives_what_a_whole_step_gave(pipe: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(2, 1, pipe.unet.config.cross_attention_dim, generator=generator)
    sample = torch.randn(2, 3, pipe.unet.config.in_channels, 16, 16, generator=generator)
    inputs = (sample, torch.tensor(1.3), context, torch.tensor([[6.0, 127.0, 0.02], [6.0, 20.0, 0.3]]))
    deep = DeepCache(pipe.unet, 2)
    with torch.no_grad():
        exact = pipe.unet(*inputs).sample
        for number in range(3):
            with deep.step(number, "both"):
                assert torch.equal(pipe.unet(*inputs).sample, exact)


def test_reused_features_change_the_pixels_but_not_from_call_to_call(pipe: Any) -> None:
    exact, first = clip(pipe), clip(pipe, deep_cache_interval=3)
    clip(pipe, seed=6, deep_cache_interval=2)
    assert apart(first, exact) > 1e-3
    assert torch.equal(clip(pipe, deep_cache_interval=3), first)
    assert torch.equal(clip(pipe), exact)


def test_a_row_of_a_batch_reuses_its_own_features(pipe: Any) -> None:
    generators = [torch.Generator().manual_seed(s) for s in (5, 6)]
    arguments = {**SHAPE, "deep_cache_interval": 2, "motion_bucket_id": [20, 240]}
    batch = pipe(PICTURE, generator=generators, output_type="pt", **arguments).frames
    for row, seed, bucket in zip(batch, (5, 6), (20, 240), strict=True):
        assert apart(row, clip(pipe, seed, deep_cache_interval=2, motion_bucket_id=bucket)) < 1e-4


def test_halves_of_guidance_one_after_the_other_reuse_their_own_features(pipe: Any) -> None:
    together = clip(pipe, deep_cache_interval=2)
    pipe.split_guidance = True
    try:
        assert counted(pipe, pipe.unet.mid_block, deep_cache_interval=2) == [SHAPE["num_frames"]] * 6
        assert apart(clip(pipe, deep_cache_interval=2), together) < 1e-4
    finally:
        pipe.split_guidance = False


def test_the_unet_is_whole_again_after_a_step_that_failed(pipe: Any) -> None:
    before = [name for name, _ in pipe.unet.named_modules()]

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = pipe.unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        clip(pipe, deep_cache_interval=2)
    handle.remove()
    assert [name for name, _ in pipe.unet.named_modules()] == before


def test_four_levels_with_attention_at_the_top_reuse_features_alike_in_both_unets() -> None:
    torch.manual_seed(0)
    widths: dict[str, Any] = {"block_out_channels": (32, 64, 64, 64), "num_attention_heads": (1, 2, 2, 2)}
    times = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24}
    pipes = []
    unet = UNetSpatioTemporalConditionModel(cross_attention_dim=16, layers_per_block=2, **widths, **times).eval()
    for switches in (None, Switches()):
        made = StableVideoDiffusionPipeline(**{**build_pipeline(SIZES["tiny"], 0).components})
        made.unet = copy.deepcopy(unet)
        if switches:
            make_fast(made, switches)
        pipes.append(made)
    sample, context = torch.randn(1, 3, 8, 18, 14), torch.randn(1, 1, 16)  # sides that the levels don't halve evenly
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    outputs = []
    for made in pipes:
        deep = DeepCache(made.unet, 2)
        with torch.no_grad(), deep.step(0, "all"):
            made.unet(sample, 1.3, context, ids)
        with torch.no_grad(), deep.step(1, "all"):
            outputs.append(made.unet(1.1 * sample, 1.2, context, ids).sample)
    assert apart(*outputs) < 1e-5


def test_an_interval_below_one_is_refused(pipe: Any) -> None:
    with pytest.raises(ValueError, match="`deep_cache_interval` is 0"):
        clip(pipe, deep_cache_interval=0)


# --- guidance within a band -------------------------------------------------------------------------------------


def test_a_band_that_holds_every_noise_level_gives_the_exact_pixels_to_the_bit(pipe: Any) -> None:
    assert torch.equal(clip(pipe, guidance_sigma_min=0.0, guidance_sigma_max=1000.0), clip(pipe))


def test_a_band_that_holds_none_gives_the_pixels_without_guidance_to_the_bit(pipe: Any) -> None:
    assert torch.equal(clip(pipe, guidance_sigma_min=800.0, guidance_sigma_max=900.0), clip(pipe, max_guidance_scale=1))


@pytest.mark.parametrize(
    ("low", "high", "guided"), [(1.0, 50.0, [0, 1, 1, 0, 0]), (0.0, 5.0, [0, 0, 1, 1, 1]), (5.0, 1e3, [1, 1, 1, 0, 0])]
)
def test_outside_of_the_band_one_half_of_the_unet_runs(low: float, high: float, guided: list[int], pipe: Any) -> None:
    batches = counted(pipe, pipe.unet, sigmas=SIGMAS, guidance_sigma_min=low, guidance_sigma_max=high)
    assert batches == [1 + g for g in guided]


def test_a_band_works_with_the_halves_one_after_the_other(pipe: Any) -> None:
    band = {"sigmas": SIGMAS, "guidance_sigma_min": 1.0, "guidance_sigma_max": 50.0}
    together = clip(pipe, **band)
    pipe.split_guidance = True
    try:
        assert counted(pipe, pipe.unet, **band) == [1] * 7
        assert apart(clip(pipe, **band), together) < 1e-4
    finally:
        pipe.split_guidance = False


def test_a_step_into_the_band_computes_the_features_that_the_other_half_lacks(pipe: Any) -> None:
    arguments = {"sigmas": SIGMAS, "guidance_sigma_min": 1.0, "guidance_sigma_max": 50.0, "deep_cache_interval": 5}
    frames = SHAPE["num_frames"]
    assert counted(pipe, pipe.unet.mid_block, **arguments) == [frames, 2 * frames]
    assert torch.equal(clip(pipe, **arguments), clip(pipe, **arguments))


def test_a_scheduler_without_noise_levels_refuses_a_band(pipe: Any) -> None:
    made = SVDSweepPipeline(**{**pipe.components, "scheduler": DDIMScheduler(prediction_type="v_prediction")})
    made.set_progress_bar_config(disable=True)
    clip(made)
    with pytest.raises(ValueError, match="DDIMScheduler has no noise levels"):
        clip(made, guidance_sigma_min=1.0)


# --- the short sampler ------------------------------------------------------------------------------------------


def test_the_scheduler_of_svd_takes_the_sigmas_of_align_your_steps_as_they_are(pipe: Any) -> None:
    sigmas = AysSchedules["StableDiffusionVideoSigmas"]
    scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert scheduler.config.use_karras_sigmas
    scheduler.set_timesteps(sigmas=sigmas)
    assert torch.allclose(scheduler.sigmas, torch.tensor(sigmas))  # the last one is 0, and karras spacing is left out
    assert torch.allclose(scheduler.timesteps, 0.25 * torch.tensor(sigmas[:-1]).log())  # what the model is told
    assert float(scheduler.init_noise_sigma) == pytest.approx((700.0**2 + 1) ** 0.5)


def test_ten_steps_of_euler_with_these_sigmas_are_stocks_to_the_bit(pipe: Any) -> None:
    stock = StableVideoDiffusionPipeline(**pipe.components)
    stock.set_progress_bar_config(disable=True)
    sigmas = AysSchedules["StableDiffusionVideoSigmas"]
    assert torch.equal(clip(pipe, sigmas=sigmas), clip(stock, sigmas=sigmas))
    assert counted(pipe, pipe.unet, sigmas=sigmas) == [2] * 10
