"""What a clip's frames say of it, as one number. NumPy only; frames are uint8 (T, H, W, 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_LIKENESS_DB = 100.0
"""The likeness of equal pictures, whose PSNR is infinite."""

Frames = NDArray[np.uint8]


def motion(frames: Frames) -> float:
    """Return how much changes from frame to frame: the mean of |frame[t + 1] - frame[t]| / 255, from 0 to 1.

    It counts all change alike: moving things, a moving camera, flicker and noise.
    """
    steps = np.abs(np.diff(frames.astype(np.int16), axis=0))
    return float(steps.mean(dtype=np.float64) / 255)


def likeness(frames: Frames, picture: Frames) -> float:
    """Return how like the first frame is to the picture (H, W, 3): PSNR in dB, 10 log10(255^2 / MSE), at most 100."""
    error = np.square(frames[0].astype(np.float64) - picture).mean()
    return MOST_LIKENESS_DB if error == 0 else min(MOST_LIKENESS_DB, float(10 * np.log10(255**2 / error)))
