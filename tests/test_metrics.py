"""One number of a clip, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from svd_batch.metrics import likeness, motion


def still(value: int, num_frames: int = 3) -> np.ndarray:
    return np.full((num_frames, 4, 6, 3), value, np.uint8)


def test_a_still_clip_has_no_motion() -> None:
    assert motion(still(200)) == 0.0


def test_black_to_white_and_back_is_all_the_motion_that_there_is() -> None:
    frames = still(0)
    frames[1] = 255
    assert motion(frames) == 1.0


def test_motion_is_the_mean_over_pixels_and_steps() -> None:
    frames = still(100)
    frames[2, :, :3] += 51  # half of the pixels, in one of two steps, by a fifth
    assert motion(frames) == pytest.approx(0.2 / 4)


def test_darker_counts_as_much_as_brighter() -> None:
    frames = still(100)
    frames[1] = 40
    assert motion(frames) == pytest.approx(60 / 255)


def test_likeness_is_the_psnr_of_the_first_frame() -> None:
    random = np.random.default_rng(0)
    frames, picture = random.integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    assert likeness(frames, picture[0]) == pytest.approx(peak_signal_noise_ratio(picture[0], frames[0]))


def test_equal_pictures_have_the_most_likeness() -> None:
    assert likeness(still(7), still(7)[0]) == 100.0
