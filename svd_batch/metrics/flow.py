"""Metrics of motion, from the optical flow between frames.

Lengths are px a frame in the clip scaled to a height of 256 px, whatever its own size: 2 px a frame in 576 lines and
0.89 px in 256 are the same motion.
"""

from __future__ import annotations

import itertools

import numpy as np

from svd_batch.metrics.clip import Clip, Floats, fastest, flow_between, lengths

STILL_PX = 0.1
"""Below this the fastest 5 % count as still; over a texture DIS errs by about half of it."""
NOISE_PX = 0.1
"""What flow may differ from step to step by the estimate's own error."""
VBENCH_PX, VBENCH_FPS = 6.0, 8.0


def motion(clip: Clip) -> float:
    """Return the mean length of the optical flow from each frame to the next.

    Title: motion
    Unit: px a frame at a height of 256 px
    Range: 0 to inf
    Better: neither
    Frames: 2
    Formula: mean over steps t and pixels x of |F_t(x)|
    Source: flow by OpenCV's DIS, Kroeger et al., ECCV 2016
    """
    return float(clip.lengths.mean(dtype=np.float64))


def motion_top5(clip: Clip) -> float:
    """Return the mean length of the longest 5 % of the optical flow of each step.

    Title: motion of the fastest 5 %
    Unit: px a frame at a height of 256 px
    Range: 0 to inf
    Better: neither
    Frames: 2
    Formula: mean over steps t of the mean of the largest 5 % of |F_t(x)|
    Source: what VBench's dynamic degree looks at (Huang et al., CVPR 2024), with DIS in place of RAFT
    """
    return float(np.mean(clip.fastest))


def motion_fraction(clip: Clip) -> float:
    """Return `motion` as a fraction of the frame's diagonal.

    Title: motion over the diagonal
    Unit: diagonals a frame
    Range: 0 to inf
    Better: neither
    Frames: 2
    Formula: motion / sqrt(h^2 + w^2), at h = 256 px
    Source: as `motion`
    """
    return motion(clip) / clip.diagonal


def motion_top5_fraction(clip: Clip) -> float:
    """Return `motion_top5` as a fraction of the frame's diagonal.

    Title: motion of the fastest 5 % over the diagonal
    Unit: diagonals a frame
    Range: 0 to inf
    Better: neither
    Frames: 2
    Formula: motion_top5 / sqrt(h^2 + w^2), at h = 256 px
    Source: as `motion_top5`
    """
    return motion_top5(clip) / clip.diagonal


def camera_motion(clip: Clip) -> float:
    """Return the mean length of the part of the flow that one affine movement of the whole frame explains.

    A pan, a zoom and a roll are such movements; parallax isn't. Something that fills over half of the frame is taken
    for the background.

    Title: camera motion
    Unit: px a frame at a height of 256 px
    Range: 0 to inf
    Better: neither
    Frames: 2
    Formula: mean of |A_t(x)|, where the affine A_t makes the sum over x of |F_t(x) - A_t(x)| least
    Source: global motion by least absolute residuals (Odobez and Bouthemy, JVCIR 1995, with another robust norm)
    """
    return clip.camera_and_rest[0]


def object_motion(clip: Clip) -> float:
    """Return the mean length of the flow that is left when the camera's part is taken off.

    Title: object motion
    Unit: px a frame at a height of 256 px
    Range: 0 to inf
    Better: neither
    Frames: 2
    Formula: mean of |F_t(x) - A_t(x)|, A_t as for camera_motion
    Source: as `camera_motion`
    """
    return clip.camera_and_rest[1]


def dynamic_degree(clip: Clip) -> bool:
    """Return whether VBench's rule calls the clip dynamic; with DIS in place of RAFT, so near the limit it may differ.

    Title: dynamic degree
    Unit: true or false
    Range: 0 to 1
    Better: higher
    Frames: 2
    Formula: of the n frames left at about 8 a second, at least n / 4 (and one) steps have their fastest 5 % above
        6 px * max(1, 8 / playback_fps), at a shorter side of 256 px
    Source: VBench's dynamic degree, Huang et al., CVPR 2024
    """
    every = max(1, round(clip.playback_fps / VBENCH_FPS))
    kept = clip.small[::every]
    if len(kept) < 2:
        return False
    if every == 1:
        top = clip.fastest
    else:
        flows = [flow_between(a, b) for a, b in itertools.pairwise(kept)]
        top = fastest(np.stack([lengths(flow * clip.units) for flow in flows]))
    height, width = clip.frames.shape[1:3]
    least_px = VBENCH_PX * max(1.0, VBENCH_FPS / clip.playback_fps) * min(height, width) / height
    return int(np.sum(top > least_px)) >= max(1, round(len(kept) / 4))


def smoothness(clip: Clip) -> float:
    """Return how steady the motion is: 1 for none or a constant one, 0 for one that turns back at every frame.

    Title: motion smoothness
    Unit: fraction
    Range: 0 to 1
    Better: higher
    Frames: 3
    Formula: 1 - S(max(0, |F_t+1(x + F_t(x)) - F_t(x)| - 0.1 px)) / S(|F_t+1(x + F_t(x))| + |F_t(x)|), S the sum over
        t and every second x along both sides
    Source: ours; the acceleration of what moves, where VBench asks a network to interpolate frames
    """
    differences, sums = 0.0, 0.0
    for before, after, places in zip(clip.flows, clip.flows[1:], clip.places, strict=False):
        followed = _sampled(after, np.ascontiguousarray(places[::2, ::2]))
        started = before[::2, ::2]
        change = lengths((followed - started) * clip.units)
        differences += float(np.maximum(change - NOISE_PX, 0).sum(dtype=np.float64))
        sums += float((lengths(followed * clip.units) + lengths(started * clip.units)).sum(dtype=np.float64))
    return 1.0 if differences == 0 else 1 - differences / sums


def flicker(clip: Clip) -> float:
    """Return how much luma changes from frame to frame where motion is taken off.

    What comes into view, which flow can't explain, counts too, so a fast clip has a little of it.

    Title: flicker
    Unit: levels of 255
    Range: 0 to 255
    Better: lower
    Frames: 2
    Formula: mean over t and x of |Y_t+1(x + F_t(x)) - Y_t(x)|, x + F_t(x) within the frame, Y at a height of 256 px at
        most
    Source: warping error, Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018, absolute and unmasked
    """
    total, count = 0.0, 0
    height, width = clip.small.shape[1:]
    for before, after, places in zip(clip.small, clip.small[1:], clip.places, strict=False):
        x, y = places[..., 0], places[..., 1]
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        change = np.abs(_sampled(after.astype(np.float32), places) - before)
        total += float(change.sum(where=inside, dtype=np.float64))
        count += int(np.count_nonzero(inside))
    return total / max(1, count)


def is_frozen(clip: Clip) -> bool:
    """Return whether nothing moves: not even the fastest 5 % of the pixels.

    Noise alone counts as motion where the picture is flat: a still clip with noise of its own in each frame, of a
    standard deviation of 0.5 levels of 255, had 0.10 to 0.91 px in four photographs, and one of the four was frozen.

    Title: frozen
    Unit: true or false
    Range: 0 to 1
    Better: lower
    Frames: 2
    Formula: motion_top5 < 0.1 px
    Source: ours; about twice what DIS finds in noise over a texture
    """
    return motion_top5(clip) < STILL_PX


def _sampled(values: Floats, places: Floats) -> Floats:
    """Return values (h, w[, 2]) at places (h, w, 2) between pixels, those outside taken from the border."""
    import cv2

    found: Floats = cv2.remap(values, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found
