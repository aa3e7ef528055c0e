"""Procedural pictures: scenes with the edges, sizes and colours of natural ones, from a random generator alone.

Knows how to paint a canvas. Knows nothing of files, clips or cameras.
"""

from __future__ import annotations

import cv2
import numpy as np

Canvas = np.ndarray  # (H, W, 3) float32, 0 to 255
LETTERS = "ABDEFGHKMNPRSTXYZ0123456789&?"


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A colour (3,): often a dull one, as in photographs."""
    colour = rng.uniform(0, 255, 3)
    grey = colour.mean()
    return (grey + rng.uniform(0.1, 1.0) * (colour - grey)).astype(np.float32)


def fractal_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Clouds (H, W), mean 0 and standard deviation 1: octaves of smooth noise that fall off with frequency."""
    slope = rng.uniform(0.45, 0.95)
    total = np.zeros((height, width), np.float32)
    cells, weight = 2, 1.0
    while cells < height:
        grid = rng.standard_normal((cells + 2, 2 * cells + 2)).astype(np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * slope
    return (total - total.mean()) / (total.std() + 1e-6)


def gradient(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """A smooth wash between two colours."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = np.cos(angle) * x / width + np.sin(angle) * y / height
    ramp = ((ramp - ramp.min()) / (np.ptp(ramp) + 1e-6))[..., None]
    return (1 - ramp) * _colour(rng) + ramp * _colour(rng)


def clouds(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Two colours mixed by fractal noise, with some noise of its own in each channel."""
    mix = 1 / (1 + np.exp(-rng.uniform(0.7, 3.0) * fractal_noise(rng, height, width)))[..., None]
    canvas = (1 - mix) * _colour(rng) + mix * _colour(rng)
    return canvas + rng.uniform(0, 25) * fractal_noise(rng, height, width)[..., None]


def stripes(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Waves, bars or checks of two colours, bent a little."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x = x + rng.uniform(0, 12) * fractal_noise(rng, height, width)
    angle, period = rng.uniform(0, np.pi), rng.uniform(10, 60)
    wave = np.sin(2 * np.pi / period * (np.cos(angle) * x + np.sin(angle) * y))
    if rng.random() < 0.5:
        wave = wave * np.sin(2 * np.pi / period * (np.cos(angle) * y - np.sin(angle) * x))
    mix = (1 / (1 + np.exp(-rng.uniform(2, 12) * wave)))[..., None]
    return (1 - mix) * _colour(rng) + mix * _colour(rng)


def _stamp_shape(rng: np.random.Generator, canvas: Canvas, radius: float) -> None:
    """Paint one shaded ellipse or polygon over the canvas, in place."""
    height, width = canvas.shape[:2]
    centre = rng.uniform((0, 0), (width, height))
    mask = np.zeros((height, width), np.uint8)
    if rng.random() < 0.5:
        axes = (int(radius) + 1, int(radius * rng.uniform(0.3, 1)) + 1)
        cv2.ellipse(mask, centre.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        ring = np.stack([np.cos(angles), np.sin(angles)], 1) * radius * rng.uniform(0.5, 1.3, (len(angles), 1))
        cv2.fillPoly(mask, [(centre + ring).astype(np.int32)], 255, cv2.LINE_AA)
    alpha = (mask.astype(np.float32) / 255)[..., None]
    paint = gradient(rng, height, width) if rng.random() < 0.6 else clouds(rng, height, width)
    canvas += alpha * (paint - canvas)


def leaves(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Shapes of many sizes that cover one another, over any other ground: the dead leaves model."""
    ground = (gradient, clouds, stripes)[rng.integers(3)]
    canvas = ground(rng, height, width).astype(np.float32)
    for _ in range(rng.integers(3, 26)):
        _stamp_shape(rng, canvas, radius=height * 0.5 * rng.uniform(0.12, 1.0) ** 2)
    return canvas


def lettering(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Large letters and thin lines over a ground."""
    ground = (gradient, clouds)[rng.integers(2)](rng, height, width)
    canvas = np.clip(ground, 0, 255).astype(np.uint8)  # OpenCV writes on bytes alone
    for _ in range(rng.integers(2, 14)):
        place = rng.integers((-10, 10), (width, height + 10)).tolist()
        colour, thick = _colour(rng).tolist(), int(rng.integers(2, 8))
        if rng.random() < 0.6:
            text = "".join(rng.choice(list(LETTERS), rng.integers(1, 6)))
            cv2.putText(canvas, text, place, int(rng.integers(0, 5)), rng.uniform(1, 4), colour, thick, cv2.LINE_AA)
        else:
            end = rng.integers((0, 0), (width, height)).tolist()
            cv2.line(canvas, place, end, colour, thick, cv2.LINE_AA)
    return canvas


def paint_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A procedural picture (H, W, 3) uint8."""
    painter = (gradient, clouds, stripes, leaves, lettering)[rng.choice(5, p=(0.06, 0.2, 0.1, 0.46, 0.18))]
    canvas = painter(rng, height, width).astype(np.float32)
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.8, 2.5))
    grain = max(0.0, rng.uniform(-4, 4))  # half of the pictures have none: grain that moves hides how they move
    canvas = canvas + grain * rng.standard_normal((height, width, 1)).astype(np.float32)
    return np.clip(canvas, 0, 255).astype(np.uint8)
