"""SVDSweepPipeline: stock's pixels for stock's arguments, and a mixed batch that equals its cells one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline

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


def test_calling_twice_gives_the_same_video(ours: Any) -> None:
    first = video(ours, generator=seeded(5))
    video(ours, motion_bucket_id=[1, 2], generator=[seeded(1), seeded(2)], num_inference_steps=4)
    assert np.array_equal(video(ours, generator=seeded(5)), first)


def test_a_callback_sees_every_step_and_may_change_the_latents(ours: Any) -> None:
    seen: list[int] = []

    def zero(pipe: Any, step: int, timestep: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(step)
        return {"latents": torch.zeros_like(given["latents"])}

    frames = ours(PICTURE, **SHAPE, output_type="latent", generator=seeded(5), callback_on_step_end=zero).frames
    assert seen == [0, 1, 2]
    assert not frames.any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"motion_bucket_id": [1, 2], "fps": [7, 7, 7]}, "`motion_bucket_id` is a list of length 2; .* 3 samples"),
        ({"max_guidance_scale": [1.0, 3.0]}, "turns guidance on for some samples and off for others"),
        ({"height": 33}, "divisible by 8"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], sentence: str, ours: Any) -> None:
    with pytest.raises(ValueError, match=sentence):
        ours(PICTURE, **{**SHAPE, **arguments})
