"""Metrics of single frames and of how they drift: sharpness, exposure, colour, and frames that are no picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from svd_batch.metrics.clip import Clip, Frames, luma

BLACK = 16
"""Luma up to here is black, as in video of limited range."""
BLACK_SHARE, CLIPPED_SHARE = 0.98, 0.9


def sharpness(clip: Clip) -> float:
    """Return how much fine detail the frames have, at the clip's own size.

    Title: sharpness
    Unit: squared levels of 255
    Range: 0 to inf
    Better: higher
    Formula: mean over frames of the variance over pixels of the Laplacian of luma
    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000
    """
    import cv2

    deviations = [cv2.meanStdDev(cv2.Laplacian(frame, cv2.CV_16S))[1] for frame in clip.luma]
    return float(np.mean(np.square(deviations)))


def brightness_drift(clip: Clip) -> float:
    """Return how much brighter the clip becomes from its first to its last frame, below 0 for darker.

    Title: brightness drift
    Unit: levels of 255
    Range: -255 to 255
    Better: neither
    Frames: 2
    Formula: (T - 1) * the median over pairs t < u of (m_u - m_t) / (u - t), m the mean luma of a frame
    Source: slope by Theil and Sen (JASA 1968), which flicker leaves alone
    """
    return _drift([float(frame.mean(dtype=np.float64)) for frame in clip.luma])


def contrast_drift(clip: Clip) -> float:
    """Return how much contrast the clip gains from its first to its last frame, below 0 where it fades.

    Title: contrast drift
    Unit: levels of 255
    Range: -127.5 to 127.5
    Better: neither
    Frames: 2
    Formula: as `brightness_drift`, m the standard deviation of a frame's luma
    Source: as `brightness_drift`
    """
    import cv2

    return _drift([float(cv2.meanStdDev(frame)[1][0, 0]) for frame in clip.luma])


def saturation_drift(clip: Clip) -> float:
    """Return how much more colourful the clip becomes from its first to its last frame, below 0 for less.

    Title: saturation drift
    Unit: levels of 255
    Range: -255 to 255
    Better: neither
    Frames: 2
    Formula: as `brightness_drift`, m the mean chroma max(R, G, B) - min(R, G, B) of a frame
    Source: as `brightness_drift`
    """
    return _drift([_chroma(frame) for frame in clip.frames])


def is_broken(clip: Clip) -> bool:
    """Return whether a frame is no picture: NaN from the decoder, black, or clipped nearly everywhere.

    A clip of an input picture that is itself black or clipped is not called broken for that. From a file NaN can't be
    seen any more.

    Title: broken
    Unit: true or false
    Range: 0 to 1
    Better: lower
    Formula: any frame with NaN or infinity, with luma <= 16 in 98 % of its pixels, or with 90 % of its RGB values
        at 0 or 255
    Source: ours; the share of black is that of FFmpeg's blackframe
    """
    allowed = (False, False) if clip.picture is None else (_is_black(luma(clip.picture)), _is_clipped(clip.picture))
    black = not allowed[0] and any(_is_black(frame) for frame in clip.luma)
    clipped = not allowed[1] and any(_is_clipped(frame) for frame in clip.frames)
    return clip.num_nan_frames > 0 or black or clipped


def _drift(values: Sequence[float]) -> float:
    """Return the rise over a sequence by the median of all slopes between two of its values."""
    found: NDArray[np.float64] = np.asarray(values)
    first, second = np.triu_indices(len(found), 1)
    return float((len(found) - 1) * np.median((found[second] - found[first]) / (second - first)))


def _chroma(frame: Frames) -> float:
    import cv2

    red, green, blue = cv2.split(frame)
    most, least = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return float(most.mean(dtype=np.float64) - least.mean(dtype=np.float64))


def _is_black(grey: Frames) -> bool:
    return bool(np.count_nonzero(grey <= BLACK) >= BLACK_SHARE * grey.size)


def _is_clipped(frame: Frames) -> bool:
    import cv2

    inside = cv2.countNonZero(cv2.inRange(frame.reshape(len(frame), -1), 1, 254))
    return bool(frame.size - inside >= CLIPPED_SHARE * frame.size)
