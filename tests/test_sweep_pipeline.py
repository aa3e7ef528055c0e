"""SVDSweepPipeline: stock's pixels for stock's arguments, and a mixed batch that equals its cells one by one."""

from __future__ import annotations

import inspect
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DiffusionPipeline, HeunDiscreteScheduler, StableVideoDiffusionPipeline
from diffusers.utils import logging

from svd_batch.engine.sweep_pipeline import SVDSweepPipeline

PICTURE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
OTHER = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
SHAPE: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 3, "num_inference_steps": 3, "decode_chunk_size": 2}
CELLS: list[dict[str, Any]] = [
    {
        "motion_bucket_id": 20,
        "noise_aug_strength": 0.02,
        "fps": 7,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 3.0,
    },
    {
        "motion_bucket_id": 240,
        "noise_aug_strength": 0.3,
        "fps": 12,
        "min_guidance_scale": 1.5,
        "max_guidance_scale": 2.0,
    },
    {
        "motion_bucket_id": 127,
        "noise_aug_strength": 0.0,
        "fps": 7,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 1.5,
    },
]


@pytest.fixture(scope="module")
def stock(tiny_checkpoint: Path) -> StableVideoDiffusionPipeline:
    pipe = StableVideoDiffusionPipeline.from_pretrained(tiny_checkpoint, variant="fp16", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def ours(stock: StableVideoDiffusionPipeline) -> SVDSweepPipeline:
    pipe = SVDSweepPipeline(**stock.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def video(pipe: Any, image: Any = PICTURE, **arguments: Any) -> np.ndarray:
    """Return frames (samples, T, H, W, 3) in [0, 1]."""
    frames: np.ndarray = pipe(image, **{**SHAPE, "output_type": "np", **arguments}).frames
    return frames


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        *CELLS,
        {"max_guidance_scale": 1.0},
        {"num_videos_per_prompt": 2},
        {"decode_chunk_size": None},
        {"num_inference_steps": 1},
        {"sigmas": [700.0, 10.0, 0.1]},
    ],
)
def test_single_values_give_stocks_pixels_to_the_bit(arguments: dict[str, Any], stock: Any, ours: Any) -> None:
    if arguments.get("num_videos_per_prompt"):
        arguments = {**arguments, "decode_chunk_size": 3}  # no chunk straddles two videos
    theirs = video(stock, generator=seeded(5), **arguments)
    assert np.array_equal(video(ours, generator=seeded(5), **arguments), theirs)


def test_a_tensor_gives_stocks_pixels_to_the_bit(stock: Any, ours: Any) -> None:
    image = torch.rand((1, 3, 224, 224), generator=seeded(0))  # stock gives a tensor to CLIP as it is
    assert np.array_equal(video(ours, image, generator=seeded(5)), video(stock, image, generator=seeded(5)))


def test_given_latents_give_stocks_pixels_to_the_bit(stock: Any, ours: Any) -> None:
    latents = torch.randn((1, 3, 8, 16, 16), generator=seeded(0))
    theirs = video(stock, latents=latents, generator=seeded(5))
    assert np.array_equal(video(ours, latents=latents, generator=seeded(5)), theirs)


@pytest.mark.parametrize("k", range(3))
def test_row_k_of_a_mixed_batch_is_stocks_video_of_that_cell(k: int, stock: Any, ours: Any) -> None:
    mixed = {name: [cell[name] for cell in CELLS] for name in CELLS[0]}
    batch = video(ours, **mixed, generator=[seeded(s) for s in (5, 5, 6)])
    alone = video(stock, **CELLS[k], generator=seeded((5, 5, 6)[k]))
    assert batch.shape[0] == 3
    assert np.abs(batch[k] - alone[0]).max() < 1e-4


def test_two_pictures_with_a_value_each_are_two_calls_of_stock(stock: Any, ours: Any) -> None:
    both = video(ours, [PICTURE, OTHER], motion_bucket_id=[20, 240], generator=[seeded(5), seeded(6)])
    for k, (image, bucket, seed) in enumerate(((PICTURE, 20, 5), (OTHER, 240, 6))):
        alone = video(stock, image, motion_bucket_id=bucket, generator=seeded(seed))
        assert np.abs(both[k] - alone[0]).max() < 1e-4


# --- the rest of stock's call -----------------------------------------------------------------------------------


def test_the_call_has_stocks_parameters_with_their_defaults_in_its_order(stock: Any, ours: Any) -> None:
    theirs, mine = (list(inspect.signature(pipe.__call__).parameters.values()) for pipe in (stock, ours))
    assert [(p.name, p.default) for p in mine[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in mine[len(theirs) :])


@pytest.mark.parametrize("images", [[PICTURE], [PICTURE, OTHER]], ids=["one", "two"])
def test_a_list_of_pictures_gives_stocks_pixels_to_the_bit(images: list[Any], stock: Any, ours: Any) -> None:
    whole = {"decode_chunk_size": 3}  # no chunk straddles two videos
    theirs = video(stock, images, generator=seeded(5), **whole)
    assert np.array_equal(video(ours, images, generator=seeded(5), **whole), theirs)


def test_two_tensors_with_a_generator_each_give_stocks_pixels_to_the_bit(stock: Any, ours: Any) -> None:
    images = torch.rand((2, 3, 224, 224), generator=seeded(0))
    made = [
        video(pipe, images, generator=[seeded(5), seeded(6)], decode_chunk_size=3, max_guidance_scale=1.0)
        for pipe in (ours, stock)
    ]
    assert np.array_equal(*made)


@pytest.mark.parametrize(
    "arguments",
    [
        {"height": None, "width": None},  # what the UNet's sample_size says
        {"num_frames": None},
        {"min_guidance_scale": 3.0, "max_guidance_scale": 2.0},  # a ramp that falls
        {"height": 48, "width": 64},
        {"num_inference_steps": 7, "sigmas": [10.0, 1.0]},  # sigmas go before steps
        {"fps": 1, "motion_bucket_id": 0, "noise_aug_strength": 0},
    ],
)
def test_other_arguments_give_stocks_pixels_to_the_bit(arguments: dict[str, Any], stock: Any, ours: Any) -> None:
    theirs = video(stock, generator=seeded(5), **arguments)
    assert np.array_equal(video(ours, generator=seeded(5), **arguments), theirs)


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_every_output_type_is_stocks(output_type: str, return_dict: bool, stock: Any, ours: Any) -> None:
    arguments = {**SHAPE, "output_type": output_type, "return_dict": return_dict}
    theirs, mine = (pipe(PICTURE, **arguments, generator=seeded(5)) for pipe in (stock, ours))
    assert type(mine) is type(theirs)
    frames = [result.frames if return_dict else result for result in (mine, theirs)]
    assert type(frames[0]) is type(frames[1])
    assert np.array_equal(*([np.asarray(f) for f in frames[k][0]] for k in (0, 1)))


def test_the_generator_is_left_as_stock_leaves_it(stock: Any, ours: Any) -> None:
    mine, theirs = seeded(5), seeded(5)
    video(ours, generator=mine)
    video(stock, generator=theirs)
    assert torch.equal(mine.get_state(), theirs.get_state())


def test_what_stock_tells_of_the_last_call_is_told(stock: Any, ours: Any) -> None:
    for pipe in (stock, ours):
        video(pipe, generator=seeded(5), num_inference_steps=4)
    assert ours.num_timesteps == stock.num_timesteps == 4
    assert torch.equal(ours.guidance_scale, stock.guidance_scale)
    assert bool(ours.do_classifier_free_guidance) is bool(stock.do_classifier_free_guidance) is True


def test_in_bfloat16_single_values_give_stocks_pixels_to_the_bit(tiny_checkpoint: Path) -> None:
    stock = StableVideoDiffusionPipeline.from_pretrained(tiny_checkpoint, variant="fp16", torch_dtype=torch.bfloat16)
    ours = SVDSweepPipeline(**stock.components)
    for pipe in (stock, ours):
        pipe.set_progress_bar_config(disable=True)
    assert np.array_equal(video(ours, generator=seeded(5)), video(stock, generator=seeded(5)))


def test_it_is_made_from_a_stock_pipeline_and_from_a_folder(stock: Any, tiny_checkpoint: Path) -> None:
    same = SVDSweepPipeline.from_pipe(stock)
    loaded = SVDSweepPipeline.from_pretrained(tiny_checkpoint, variant="fp16", torch_dtype=torch.float32)
    theirs = video(stock, generator=seeded(5))
    for pipe in (same, loaded):
        pipe.set_progress_bar_config(disable=True)
        assert np.array_equal(video(pipe, generator=seeded(5)), theirs)


def test_a_scheduler_of_second_order_gives_stocks_pixels_and_progress(tiny_checkpoint: Path) -> None:
    stock = StableVideoDiffusionPipeline.from_pretrained(tiny_checkpoint, variant="fp16", torch_dtype=torch.float32)
    stock.scheduler = HeunDiscreteScheduler(prediction_type="v_prediction")
    seen: list[tuple[list[int], np.ndarray]] = []
    for pipe in (stock, SVDSweepPipeline(**stock.components)):
        pipe.set_progress_bar_config(file=io.StringIO(), mininterval=0, miniters=1)
        bars, make_bar = [], pipe.progress_bar
        pipe.progress_bar = lambda make_bar=make_bar, bars=bars, **given: bars.append(make_bar(**given)) or bars[-1]
        frames = video(pipe, generator=seeded(5))
        seen.append(([bars[0].n, bars[0].total], frames))
    assert seen[0][0] == seen[1][0] == [3, 3]
    assert np.array_equal(seen[0][1], seen[1][1])


def test_the_offload_hooks_order_and_release_are_stocks(stock: Any, ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(DiffusionPipeline, "maybe_free_model_hooks", lambda self: calls.append(type(self)))
    for pipe in (stock, ours):
        video(pipe, generator=seeded(5))
    assert calls == [StableVideoDiffusionPipeline, SVDSweepPipeline]
    assert SVDSweepPipeline.model_cpu_offload_seq == StableVideoDiffusionPipeline.model_cpu_offload_seq


@pytest.mark.parametrize("enable", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offload_without_an_accelerator_is_refused_as_stock_refuses_it(enable: str, stock: Any, ours: Any) -> None:
    errors = []
    for pipe in (stock, ours):
        with pytest.raises(RuntimeError) as caught:
            getattr(pipe, enable)()
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


# --- nothing leaks from one call into the next -------------------------------------------------------------------


def test_calling_twice_gives_the_same_video(ours: Any) -> None:
    first = video(ours, generator=seeded(5))
    video(ours, motion_bucket_id=[1, 2], generator=[seeded(1), seeded(2)], num_inference_steps=4)
    assert np.array_equal(video(ours, generator=seeded(5)), first)


def test_a_call_that_failed_half_way_leaves_the_next_as_it_was(ours: Any) -> None:
    def stop(pipe: Any, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if step == 1:
            raise KeyboardInterrupt
        return given

    first = video(ours, generator=seeded(5))
    with pytest.raises(KeyboardInterrupt):
        video(ours, generator=seeded(6), num_inference_steps=5, max_guidance_scale=1.0, callback_on_step_end=stop)
    assert np.array_equal(video(ours, generator=seeded(5)), first)


@pytest.mark.parametrize("between", [{"sigmas": [80.0, 1.0]}, {"num_inference_steps": 9}, {"max_guidance_scale": 1.0}])
def test_other_steps_sigmas_or_no_guidance_in_between_change_nothing(between: dict[str, Any], ours: Any) -> None:
    first = video(ours, generator=seeded(5))
    video(ours, generator=seeded(6), **between)
    assert np.array_equal(video(ours, generator=seeded(5)), first)


# --- callbacks ---------------------------------------------------------------------------------------------------


def test_a_callback_sees_every_step_and_may_change_the_latents(ours: Any) -> None:
    seen: list[int] = []

    def zero(pipe: Any, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(step)
        return {"latents": torch.zeros_like(given["latents"])}

    frames = ours(PICTURE, **SHAPE, output_type="latent", generator=seeded(5), callback_on_step_end=zero).frames
    assert seen == [0, 1, 2]
    assert not frames.any()


def test_a_callback_is_given_what_stock_gives_it_and_its_changes_count_as_in_stock(stock: Any, ours: Any) -> None:
    names = ["latents", "noise_pred", "image_latents", "image_embeddings", "added_time_ids"]

    def watched(pipe: Any) -> tuple[list[Any], np.ndarray]:
        seen: list[Any] = []

        def shift(caller: Any, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            assert caller is pipe
            seen.append((step, float(timestep), {name: tensor.clone() for name, tensor in given.items()}))
            return {"latents": given["latents"] + 0.1} if step == 1 else {}

        arguments = {"callback_on_step_end": shift, "callback_on_step_end_tensor_inputs": names}
        return seen, video(pipe, generator=seeded(5), **arguments)

    (mine, frames), (theirs, expected) = watched(ours), watched(stock)
    assert [call[:2] for call in mine] == [call[:2] for call in theirs]
    assert all(torch.equal(a[2][name], b[2][name]) for a, b in zip(mine, theirs, strict=True) for name in names)
    assert np.array_equal(frames, expected)


# --- refused -----------------------------------------------------------------------------------------------------

PER_SAMPLE = ["min_guidance_scale", "max_guidance_scale", "fps", "motion_bucket_id", "noise_aug_strength"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"motion_bucket_id": [1, 2], "fps": [7, 7, 7]}, "`motion_bucket_id` is a list of length 2; .* 3 samples"),
        ({"generator": [seeded(1), seeded(2)], "fps": [7] * 3}, "`generator` is a list of length 2; .* 3 samples"),
        *(({name: [2.0] * 3, "num_videos_per_prompt": 2}, f"`{name}` is a list of length 3") for name in PER_SAMPLE),
        *(({name: []}, f"`{name}` is a list of length 0") for name in PER_SAMPLE),
        *(({name: value}, f"`{name}` has to be finite") for name in PER_SAMPLE for value in (math.nan, math.inf)),
        ({"noise_aug_strength": [0.02, math.nan]}, "`noise_aug_strength` has to be finite but is nan"),
        ({"sigmas": [700.0, math.nan]}, "`sigmas` has to be finite"),
        ({"guidance_sigma_min": math.nan}, "`guidance_sigma_min` has to be finite"),
        ({"motion_bucket_id": -1}, "`motion_bucket_id` has to be from 0 to 255 but is -1"),
        ({"motion_bucket_id": [20, -1]}, "`motion_bucket_id` has to be from 0 to 255 but is -1"),
        ({"max_guidance_scale": [1.0, 3.0]}, "turns guidance on for some samples and off for others"),
        ({"min_guidance_scale": 2.0, "max_guidance_scale": 1.0}, "`min_guidance_scale` 2.0 asks for guidance that"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], sentence: str, ours: Any) -> None:
    with pytest.raises(ValueError, match=sentence):
        ours(PICTURE, **{**SHAPE, **arguments})


@pytest.mark.parametrize(
    ("image", "arguments"),
    [
        (PICTURE, {"height": 33}),
        (PICTURE, {"width": 20}),
        ("picture.png", {}),
        (None, {}),
        (PICTURE, {"output_type": "mp4"}),
        (PICTURE, {"callback_on_step_end": lambda *_: {}, "callback_on_step_end_tensor_inputs": ["nothing"]}),
    ],
)
def test_what_stock_refuses_is_refused_with_its_own_words(
    image: Any, arguments: dict[str, Any], stock: Any, ours: Any
) -> None:
    errors = []
    for pipe in (stock, ours):
        with pytest.raises((ValueError, KeyError)) as caught:
            pipe(image, **{**SHAPE, **arguments})
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_more_motion_than_was_ever_trained_is_warned_of(ours: Any, caplog: pytest.LogCaptureFixture) -> None:
    before = logging.get_verbosity()
    logging.set_verbosity_warning()  # an engine of this process may have turned it down
    logging.enable_propagation()
    try:
        video(ours, motion_bucket_id=256, generator=seeded(5))
        video(ours, motion_bucket_id=255, generator=seeded(5))
    finally:
        logging.disable_propagation()
        logging.set_verbosity(before)
    assert {r.message.split(",")[0] for r in caplog.records} == {"`motion_bucket_id` 256 is above 255"}


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple])
def test_any_kind_of_list_is_a_value_for_each_sample(kind: Any, ours: Any) -> None:
    generators = [[seeded(5), seeded(5)] for _ in range(2)]
    listed = video(ours, motion_bucket_id=[20, 240], generator=generators[0])
    assert np.array_equal(video(ours, motion_bucket_id=kind([20, 240]), generator=generators[1]), listed)


def test_a_generator_for_each_video_of_a_picture_gives_each_as_if_it_were_alone(stock: Any, ours: Any) -> None:
    # stock would draw the noise on the picture from the first generator for both
    both = video(ours, num_videos_per_prompt=2, generator=[seeded(5), seeded(6)])
    for k, seed in enumerate((5, 6)):
        assert np.abs(both[k] - video(stock, generator=seeded(seed))[0]).max() < 1e-4
