"""Metrics of likeness: of frames to the input picture, and of frames to each other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from svd_batch.metrics.clip import Clip, Embeddings, Floats, Frames, luma

MOST_PSNR_DB = 100.0
"""The PSNR of equal pictures, which is infinite."""
WINDOW, SIGMA = 11, 1.5
"""SSIM's Gaussian window."""


def likeness(clip: Clip, picture: Frames) -> float | None:
    """Return the SSIM of the first frame with the input picture as the model got it.

    Title: likeness
    Unit: SSIM
    Range: -1 to 1
    Better: higher
    Formula: SSIM of luma, Gaussian window of 11 px with sigma 1.5, K1 = 0.01, K2 = 0.03
    Source: Wang et al., "Image Quality Assessment", IEEE TIP 2004
    """
    return ssim(clip.luma[0], luma(picture))


def likeness_last(clip: Clip, picture: Frames) -> float | None:
    """Return the SSIM of the last frame with the input picture.

    Title: likeness of the last frame
    Unit: SSIM
    Range: -1 to 1
    Better: higher
    Formula: as `likeness`, with the last frame
    Source: as `likeness`
    """
    return ssim(clip.luma[-1], luma(picture))


def psnr_first(clip: Clip, picture: Frames) -> float:
    """Return the PSNR of the first frame with the input picture, 100 where they are equal.

    Title: PSNR of the first frame
    Unit: dB
    Range: 0 to 100
    Better: higher
    Formula: 10 log10(255^2 / mean over pixels and RGB of (frame - picture)^2), at most 100
    Source: the usual definition
    """
    return psnr(clip.frames[0], picture)


def psnr_last(clip: Clip, picture: Frames) -> float:
    """Return the PSNR of the last frame with the input picture, 100 where they are equal.

    Title: PSNR of the last frame
    Unit: dB
    Range: 0 to 100
    Better: higher
    Formula: as `psnr_first`, with the last frame
    Source: the usual definition
    """
    return psnr(clip.frames[-1], picture)


def clip_likeness(clip: Clip, embeddings: Embeddings) -> float:
    """Return how like the frames are to the input picture in the eyes of the checkpoint's own CLIP.

    Title: CLIP likeness
    Unit: cosine
    Range: -1 to 1
    Better: higher
    Formula: mean over frames of cos(e(frame), e(picture)), e the image embedding that SVD is conditioned on
    Source: CLIP-I, as in Ruiz et al., "DreamBooth", CVPR 2023
    """
    return float(np.mean(_unit(embeddings.frames) @ _unit(embeddings.picture)))


def clip_consistency(clip: Clip, embeddings: Embeddings) -> float:
    """Return how like each frame is to the next in the eyes of the checkpoint's own CLIP.

    Title: CLIP consistency
    Unit: cosine
    Range: -1 to 1
    Better: higher
    Frames: 2
    Formula: mean over steps t of cos(e(frame t), e(frame t + 1))
    Source: frame consistency, as in Esser et al., "Structure and Content-Guided Video Synthesis", ICCV 2023
    """
    units = _unit(embeddings.frames)
    return float(np.mean((units[:-1] * units[1:]).sum(axis=1)))


def loop_closure(clip: Clip) -> float | None:
    """Return the SSIM of the last frame with the first: 1 where the clip ends as it begins.

    Title: loop closure
    Unit: SSIM
    Range: -1 to 1
    Better: higher
    Frames: 2
    Formula: as `likeness`, of the last frame with the first
    Source: ours
    """
    return ssim(clip.luma[-1], clip.luma[0])


def _unit(vectors: Floats) -> NDArray[np.float64]:
    """Return vectors (…, D) at length 1."""
    wide = vectors.astype(np.float64)
    units: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
    return units


def psnr(a: Frames, b: Frames) -> float:
    """Return the PSNR of two pictures in dB, MOST_PSNR_DB at most."""
    import cv2

    error = cv2.norm(a, b, cv2.NORM_L2SQR) / a.size
    return MOST_PSNR_DB if error == 0 else min(MOST_PSNR_DB, 10 * math.log10(255**2 / error))


def ssim(a: Frames, b: Frames) -> float | None:
    """Return the mean SSIM of two grey pictures (H, W), None where they are smaller than its window.

    Population covariances, and no windows that reach over the border, as the paper's own implementation has it.
    Source: Wang et al. 2004, section III.B.
    """
    import cv2

    if min(a.shape) < WINDOW:
        return None

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        edge = WINDOW // 2
        return np.asarray(cv2.GaussianBlur(values, (WINDOW, WINDOW), SIGMA)[edge:-edge, edge:-edge], np.float64)

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x * mean_x, mean(y * y) - mean_y * mean_y
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    return float((above / below).mean())
