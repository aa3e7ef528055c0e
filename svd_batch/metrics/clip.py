"""A clip as the metrics see it: its frames, and what several metrics share, computed when first asked for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from svd_batch.metrics.camera import camera_and_rest

HEIGHT = 256
"""The height in px, of a clip scaled to it, that lengths of motion are stated at."""

TOP = 0.05
"""The share of the pixels that count as the fastest, VBench's."""

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """CLIP's image embeddings, of length D each."""

    picture: Floats
    """(D,)."""
    frames: Floats
    """(T, D)."""


@dataclass
class Clip:
    """Frames (T, H, W, 3) uint8 with what is known of where they came from. Not to be shared by threads."""

    frames: Frames
    playback_fps: float
    picture: Frames | None = None
    """The input picture (H, W, 3) as the model got it."""
    embeddings: Embeddings | None = None
    num_nan_frames: int = 0
    """Frames in which the decoder returned NaN or infinity, before rounding."""

    @cached_property
    def luma(self) -> Frames:
        """Luma (BT.601) of every frame, (T, H, W)."""
        return np.stack([luma(frame) for frame in self.frames])

    @cached_property
    def small(self) -> Frames:
        """Luma at the size at which flow is computed, (T, h, w): at most HEIGHT high, never enlarged."""
        import cv2

        height, width = self.luma.shape[1:]
        if height <= HEIGHT:
            return self.luma
        size = (max(1, round(width * HEIGHT / height)), HEIGHT)
        return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in self.luma])

    @cached_property
    def flows(self) -> Floats:
        """Optical flow from each frame to the next, (T - 1, h, w, 2), x and y in px of `small`."""
        return np.stack([flow_between(a, b) for a, b in itertools.pairwise(self.small)])

    @property
    def units(self) -> Floats:
        """What a px of `small` along x and y is in px of the clip scaled to HEIGHT, (2,)."""
        height, width = self.frames.shape[1:3]
        small_height, small_width = self.small.shape[1:]
        scale = HEIGHT / height
        return np.array([scale * width / small_width, scale * height / small_height], np.float32)

    @cached_property
    def lengths(self) -> Floats:
        """Length of the flow, (T - 1, h, w), in px of the clip scaled to HEIGHT."""
        return np.stack([lengths(flow * self.units) for flow in self.flows])

    @cached_property
    def fastest(self) -> NDArray[np.float64]:
        """Mean of the largest 5 % of `lengths` of each step, (T - 1,)."""
        return fastest(self.lengths)

    @cached_property
    def places(self) -> Floats:
        """Where the flow of each step takes each pixel, (T - 1, h, w, 2), in px of `small`."""
        height, width = self.small.shape[1:]
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        return self.flows + np.stack([x, y], axis=-1)

    @cached_property
    def camera_and_rest(self) -> tuple[float, float]:
        """Mean length of the camera's part of the flow and of the rest, in px of the clip scaled to HEIGHT."""
        return camera_and_rest(self.flows, self.units)

    @property
    def diagonal(self) -> float:
        """The diagonal in px of the clip scaled to HEIGHT."""
        height, width = self.frames.shape[1:3]
        return float(HEIGHT / height * np.hypot(height, width))


def luma(frame: Frames) -> Frames:
    """Return the luma (H, W) of an RGB frame."""
    import cv2

    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def lengths(vectors: Floats) -> Floats:
    """Return the lengths (h, w) of vectors (h, w, 2); cv2.magnitude may round the last bit otherwise the next time."""
    x, y = vectors[..., 0], vectors[..., 1]
    return np.asarray(np.sqrt(x * x + y * y), np.float32)


def fastest(moved: Floats) -> NDArray[np.float64]:
    """Return the mean of the largest TOP of each step's lengths (S, h, w)."""
    flat = moved.reshape(len(moved), -1)
    count = max(1, int(TOP * flat.shape[1]))
    top: NDArray[np.float64] = np.partition(flat, -count, axis=1)[:, -count:].mean(axis=1, dtype=np.float64)
    return top


SMALL = 128
"""Below this height flow is refined to the full resolution: it costs little there, and half of it is too coarse."""


def flow_between(a: Frames, b: Frames) -> Floats:
    """Return the optical flow (h, w, 2) that takes luma `a` to luma `b`, by OpenCV's DIS with its medium preset.

    Each step by itself, without the last one's flow as a start: a step is then the same whatever came before.
    Source: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
    """
    import cv2

    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    if a.shape[0] < SMALL:
        dis.setFinestScale(0)
    found: Floats = dis.calc(a, b, None)
    return found
