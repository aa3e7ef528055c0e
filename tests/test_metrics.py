"""The metrics on synthetic clips with known answers, one property a test."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svd_batch.errors import UserError
from svd_batch.metrics import METRICS, Clip, Embeddings, check_names, measure
from svd_batch.metrics.likeness import psnr, ssim

Frames = NDArray[np.uint8]
HEIGHT, WIDTH = 128, 192
AT_256 = 256 / HEIGHT
"""What a px of these clips is at the height that motion is stated at."""


def texture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0, blur: float = 2.0) -> Frames:
    """Return a smooth random picture (height, width, 3) of good contrast."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    return np.clip(128 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def moved(transform: Any, num_frames: int = 6, size: tuple[int, int] = (HEIGHT, WIDTH), blur: float = 2.0) -> Frames:
    """Return a clip in which `transform(t)`, a 2 x 3 matrix, moves a larger textured picture."""
    height, width = size
    margin = 48
    big = texture(height + 2 * margin, width + 2 * margin, blur=blur)
    frames = []
    for t in range(num_frames):
        matrix = np.asarray(transform(t), np.float64)
        matrix[:, 2] -= margin
        frames.append(cv2.warpAffine(big, matrix, (width, height), flags=cv2.INTER_CUBIC))
    return np.stack(frames)


def shift(dx: float, dy: float = 0.0, **options: Any) -> Frames:
    """Return a clip that moves by (dx, dy) px a frame."""
    return moved(lambda t: [[1, 0, dx * t], [0, 1, dy * t]], **options)


def still(num_frames: int = 6) -> Frames:
    return np.stack([texture()] * num_frames)


def flickering(frames: Frames, levels: int = 10) -> Frames:
    """Return the clip with every other frame brighter."""
    light = levels * (np.arange(len(frames)) % 2)
    return np.clip(frames.astype(int) + light[:, None, None, None], 0, 255).astype(np.uint8)


def value(name: str, frames: Frames, playback_fps: float = 8, **parts: Any) -> Any:
    """Return one metric of a clip."""
    measured = measure(Clip(frames, playback_fps, **parts), [name])
    assert not measured.errors, measured.errors
    return measured.values[name]


# --- motion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("px", [0.5, 2.0, 6.0])
def test_a_shift_reads_as_what_it_is(px: float) -> None:
    assert value("motion", shift(px)) / AT_256 == pytest.approx(px, rel=0.1)


def test_a_shift_of_2_px_reads_as_2_px_whatever_the_direction() -> None:
    assert value("motion", shift(-1.2, 1.6)) / AT_256 == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("size", [(64, 96), (256, 384), (512, 384)])
def test_the_same_motion_reads_the_same_at_every_size(size: tuple[int, int]) -> None:
    frames = shift(size[0] / 64, size=size, blur=size[0] / 64, num_frames=3)  # 4 px at 256
    assert value("motion", frames) == pytest.approx(4.0, rel=0.1)


def test_a_frozen_clip_has_no_motion_no_flicker_and_nothing_rough() -> None:
    values = measure(Clip(still(), 7), METRICS).values
    zero = ("motion", "motion_top5", "motion_fraction", "motion_top5_fraction", "camera_motion", "object_motion")
    assert {name: values[name] for name in (*zero, "flicker")} == dict.fromkeys((*zero, "flicker"), 0.0)
    assert (values["smoothness"], values["is_frozen"], values["dynamic_degree"]) == (1.0, True, False)


def test_the_fastest_5_percent_are_those_that_move() -> None:
    frames = still()
    for t in range(len(frames)):  # a sixteenth of the frame moves by 3 px
        frames[t, 40:72, 60 + 3 * t : 108 + 3 * t] = texture(32, 48, seed=5)
    assert value("motion_top5", frames) / AT_256 == pytest.approx(3.0, rel=0.2)
    assert value("motion", frames) / AT_256 < 0.6


def test_a_fraction_is_of_the_diagonal() -> None:
    frames = shift(2)
    diagonal = math.hypot(HEIGHT, WIDTH)
    assert value("motion_fraction", frames) == pytest.approx(2 / diagonal, rel=0.1)
    assert value("motion_top5_fraction", frames) == pytest.approx(value("motion_top5", frames) / AT_256 / diagonal)


def test_a_pan_is_the_cameras() -> None:
    frames = shift(2)
    assert value("camera_motion", frames) / AT_256 == pytest.approx(2, rel=0.05)
    assert value("object_motion", frames) / AT_256 < 0.1


def test_a_zoom_is_the_cameras() -> None:
    def zoom(t: int) -> Any:
        return cv2.getRotationMatrix2D((48 + WIDTH / 2, 48 + HEIGHT / 2), 0, 1.02**t)

    frames = moved(zoom)
    assert value("camera_motion", frames) / AT_256 == pytest.approx(0.02 * 62, rel=0.3)  # 62 px from the centre, about
    assert value("object_motion", frames) < 0.15 * value("camera_motion", frames)


def test_what_moves_before_a_panning_camera_is_told_apart() -> None:
    frames = shift(2)
    for t in range(len(frames)):  # a sixth of the frame, by 4 px against the pan's 2
        frames[t, 32:96, 100 - 4 * t : 164 - 4 * t] = texture(64, 64, seed=5)
    assert value("camera_motion", frames) / AT_256 == pytest.approx(2, rel=0.15)
    assert value("object_motion", frames) / AT_256 == pytest.approx(6 / 6, rel=0.3)


# --- VBench's rule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("px_at_256", "dynamic"), [(5.0, False), (7.0, True)])
def test_six_px_at_256_px_are_dynamic(px_at_256: float, dynamic: bool) -> None:
    assert value("dynamic_degree", shift(px_at_256 / AT_256), playback_fps=8) is dynamic


def test_a_slower_clip_has_to_move_more_a_frame() -> None:
    frames = shift(9 / AT_256)
    assert value("dynamic_degree", frames, playback_fps=8) is True
    assert value("dynamic_degree", frames, playback_fps=4) is False  # the limit is 12 there


def test_a_faster_clip_is_looked_at_8_times_a_second() -> None:
    frames = shift(3 / AT_256, num_frames=10)
    assert value("dynamic_degree", frames, playback_fps=8) is False
    assert value("dynamic_degree", frames, playback_fps=24) is True  # every third frame: 9 px


def test_a_single_jump_in_a_long_clip_is_not_dynamic() -> None:
    jump = np.concatenate([still(8), np.roll(still(8), 5, axis=2)])
    assert value("dynamic_degree", jump, playback_fps=8) is False


# --- flicker and smoothness ----------------------------------------------------------------------------------------


def test_added_flicker_raises_flicker_by_its_levels_and_nothing_else() -> None:
    clean, dirty = (measure(Clip(frames, 7), METRICS).values for frames in (shift(2), flickering(shift(2))))
    assert dirty["flicker"] - clean["flicker"] == pytest.approx(10, abs=1)
    for name in ("motion", "motion_top5", "camera_motion"):
        assert dirty[name] == pytest.approx(clean[name], rel=0.03), name
    for name, tolerance in {"smoothness": 0.02, "brightness_drift": 0.5, "contrast_drift": 0.5}.items():
        assert dirty[name] == pytest.approx(clean[name], abs=tolerance), name


def test_motion_is_not_taken_for_flicker() -> None:
    naive = float(np.abs(np.diff(Clip(shift(2), 7).luma.astype(int), axis=0)).mean())
    assert value("flicker", shift(2)) < 0.1 * naive


def test_constant_motion_is_smooth() -> None:
    assert value("smoothness", shift(2)) > 0.95


def test_motion_that_turns_back_at_every_frame_is_as_rough_as_can_be() -> None:
    shaking = moved(lambda t: [[1, 0, 3 * (t % 2)], [0, 1, 0]])
    assert value("smoothness", shaking) < 0.1


def test_a_clip_of_two_frames_has_no_smoothness() -> None:
    measured = measure(Clip(shift(2)[:2], 7), METRICS)
    assert "smoothness" not in measured.values
    assert "motion" in measured.values
    assert not measured.errors


# --- likeness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(11, 11), (64, 96), (45, 31)])
def test_ssim_is_scikit_images(size: tuple[int, int]) -> None:
    a, b = (texture(*size, seed=seed)[..., 0] for seed in (1, 2))
    b = ((a.astype(int) + b) // 2).astype(np.uint8)
    theirs = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    assert ssim(a, b) == pytest.approx(theirs, abs=1e-9)


def test_ssim_needs_its_window() -> None:
    assert ssim(np.zeros((8, 40), np.uint8), np.zeros((8, 40), np.uint8)) is None


def test_psnr_is_scikit_images_and_at_most_100() -> None:
    a, b = texture(seed=1), texture(seed=2)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b))
    assert psnr(a, a) == 100.0


@pytest.mark.parametrize(("first", "last"), [("likeness", "likeness_last"), ("psnr_first", "psnr_last")])
def test_likeness_is_of_the_first_and_of_the_last_frame(first: str, last: str) -> None:
    frames = shift(3)
    best = {"likeness": 1.0, "psnr_first": 100.0}[first]
    assert value(first, frames, picture=frames[0]) == pytest.approx(best)
    assert value(last, frames, picture=frames[-1]) == pytest.approx(best)
    assert value(last, frames, picture=frames[0]) < 0.5 * best


def test_a_clip_that_ends_as_it_begins_closes_its_loop() -> None:
    frames = shift(3)
    there_and_back = np.concatenate([frames, frames[::-1]])
    assert value("loop_closure", there_and_back) == pytest.approx(1.0)
    assert value("loop_closure", frames) < 0.5


def test_the_cosines_are_means_over_frames_and_over_steps() -> None:
    units = np.array([[1, 0], [1, 0], [0, 2]], np.float32)
    embeddings = Embeddings(picture=np.array([3, 0], np.float32), frames=units)
    assert value("clip_likeness", still(3), embeddings=embeddings) == pytest.approx(2 / 3)
    assert value("clip_consistency", still(3), embeddings=embeddings) == pytest.approx(1 / 2)


# --- sharpness, drift, broken clips --------------------------------------------------------------------------------


def test_blur_lowers_sharpness() -> None:
    frames = still()
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in frames])
    assert value("sharpness", blurred) < 0.3 * value("sharpness", frames)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[:, 16, 16] = 100  # the Laplacian there is -400, and 100 at each of four neighbours
    total, squares = 0, (400**2 + 4 * 100**2) / 32**2
    assert value("sharpness", frames) == pytest.approx(squares - total**2)


def test_a_clip_that_becomes_brighter_drifts_by_its_levels() -> None:
    frames = np.stack([np.clip(texture().astype(int) // 2 + 60 + 4 * t, 0, 255) for t in range(6)]).astype(np.uint8)
    assert value("brightness_drift", frames) == pytest.approx(20, abs=0.1)
    assert value("brightness_drift", frames[::-1]) == pytest.approx(-20, abs=0.1)
    assert value("contrast_drift", frames) == pytest.approx(0, abs=0.1)


def test_a_clip_that_fades_loses_contrast_and_nothing_else() -> None:
    picture = texture().astype(float) - 128
    frames = np.stack([128 + picture * (1 - 0.1 * t) for t in range(6)]).round().astype(np.uint8)
    lost = 0.5 * Clip(frames, 7).luma[0].std()
    assert value("contrast_drift", frames) == pytest.approx(-lost, rel=0.02)
    assert value("brightness_drift", frames) == pytest.approx(0, abs=0.5)


def test_a_clip_that_becomes_colourful_drifts_in_saturation() -> None:
    grey = np.repeat(texture()[..., :1], 3, axis=2).astype(int)
    frames = np.stack([np.clip(grey // 2 + 60 + np.array([5, 0, 0]) * t, 0, 255) for t in range(6)]).astype(np.uint8)
    assert value("saturation_drift", frames) == pytest.approx(25, abs=0.5)


def test_a_clip_that_moves_is_neither_frozen_nor_broken() -> None:
    assert value("is_frozen", shift(0.5)) is False
    assert value("is_broken", shift(0.5)) is False


def test_decoder_noise_alone_leaves_a_clip_frozen() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (6, HEIGHT, WIDTH, 3))
    assert value("is_frozen", np.clip(still() + noise, 0, 255).astype(np.uint8)) is True


@pytest.mark.parametrize("level", [0, 255])
def test_one_black_or_white_frame_breaks_a_clip(level: int) -> None:
    frames = still()
    frames[3] = level
    assert value("is_broken", frames) is True


def test_clipped_colours_break_a_clip() -> None:
    frames = still()
    frames[-1] = np.where(frames[-1] > 128, 255, 0)
    assert value("is_broken", frames) is True


def test_a_picture_that_is_black_itself_breaks_nothing() -> None:
    black = np.zeros((3, 32, 32, 3), np.uint8)
    assert value("is_broken", black) is True
    assert value("is_broken", black, picture=black[0]) is False


def test_nan_before_rounding_breaks_a_clip() -> None:
    assert value("is_broken", still(), num_nan_frames=1) is True


# --- the table of metrics ------------------------------------------------------------------------------------------

COLUMNS = """
motion motion_top5 motion_fraction motion_top5_fraction camera_motion object_motion dynamic_degree flicker smoothness
likeness likeness_last psnr_first psnr_last clip_likeness clip_consistency sharpness brightness_drift contrast_drift
saturation_drift loop_closure is_frozen is_broken
"""


def test_the_names_of_the_columns_are_a_promise() -> None:
    assert list(METRICS) == COLUMNS.split()


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_says_what_it_is(metric: Any) -> None:
    assert metric.title
    assert metric.description
    assert metric.unit
    assert metric.formula
    assert metric.source
    assert metric.better in ("higher", "lower", None)
    assert metric.low < metric.high
    assert metric.is_flag == (metric.unit == "true or false")
    assert set(metric.needs) <= {"picture", "embeddings"}


@pytest.mark.parametrize("kind", ["moving", "noise", "black", "tiny"])
def test_every_value_lies_in_its_range(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    frames = {"moving": shift(2), "noise": noise, "black": np.zeros_like(noise), "tiny": noise[:, :12, :16]}[kind]
    picture, random = frames[-1], np.random.default_rng(1).standard_normal((len(frames) + 1, 8)).astype(np.float32)
    measured = measure(Clip(frames, 7, picture, Embeddings(random[0], random[1:])), METRICS)
    assert not measured.errors
    for name, found in measured.values.items():
        assert METRICS[name].low <= found <= METRICS[name].high, name
        assert isinstance(found, bool) == METRICS[name].is_flag, name
    assert (
        set(METRICS) - set(measured.values) <= {"likeness", "likeness_last", "loop_closure"} if kind == "tiny" else True
    )


def test_the_same_clip_has_the_same_metrics_to_the_bit() -> None:
    first, again = (measure(Clip(shift(2.3), 7), METRICS).values for _ in range(2))
    assert first == again


def test_without_picture_and_embeddings_what_needs_them_is_left_out() -> None:
    measured = measure(Clip(still(), 7), METRICS)
    assert {name for name in METRICS if METRICS[name].needs} == set(METRICS) - set(measured.values)


def test_a_metric_that_fails_leaves_the_others_and_says_which() -> None:
    measured = measure(Clip(texture(8, 8)[None].repeat(3, axis=0), 7), METRICS)  # too small for DIS
    assert "brightness_drift" in measured.values
    (names,) = measured.errors.values()
    assert {"motion", "flicker", "is_frozen"} <= set(names)


def test_names_come_in_the_order_of_the_columns_and_once() -> None:
    assert check_names("x", ["likeness", "motion", "likeness"]) == ("motion", "likeness")


@pytest.mark.parametrize(("name", "hint"), [("likenes", "did you mean likeness?"), (3, "the metrics are motion,")])
def test_an_unknown_name_is_refused_with_what_there_is(name: Any, hint: str) -> None:
    with pytest.raises(UserError, match=rf"^metrics.names: {name!r} is not accepted.*{hint.replace('?', '.')}"):
        check_names("metrics.names", ["motion", name])
