"""Clips with known camera motion: which pictures train, which stay unseen, and how the camera moves over them.

Knows the split and the motion law. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage
import sklearn

from pocket.pictures import paint_picture

FOLDERS = {
    "skimage": Path(skimage.__file__).parent / "data",
    "sklearn": Path(sklearn.__file__).parent / "datasets" / "images",
}


@dataclass(frozen=True)
class Photo:
    """One natural picture of a wheel, or a part of it."""

    wheel: str
    """A key of FOLDERS."""
    file: str
    rights: str
    """As the wheel's documentation states them."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Left, top, right, bottom of the part used, as fractions of the whole."""

    @property
    def name(self) -> str:
        """The file's stem."""
        return Path(self.file).stem

    def load(self) -> np.ndarray:
        """The picture (H, W, 3) RGB uint8."""
        path = FOLDERS[self.wheel] / self.file
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{path}: not there or not a picture; install scikit-image 0.26 and scikit-learn")
        height, width = image.shape[:2]
        left, top, right, bottom = (round(f * n) for f, n in zip(self.box, (width, height) * 2, strict=True))
        return np.ascontiguousarray(image[top:bottom, left:right, ::-1])


TRAIN_PHOTOS = (
    Photo("sklearn", "china.jpg", "CC BY 2.0, danielbuechele on Flickr"),
    Photo("sklearn", "flower.jpg", "CC BY 2.0, vultilion on Flickr"),
    Photo("skimage", "hubble_deep_field.jpg", "NASA, public domain"),
    Photo("skimage", "ihc.png", "no known copyright restrictions", (0.0, 0.0, 0.45, 1.0)),
    Photo("skimage", "retina.jpg", "CC0", (0.5, 0.0, 1.0, 1.0)),
    Photo("skimage", "grass.png", "CC0"),
    Photo("skimage", "cell.png", "CC0"),
    Photo("skimage", "horse.png", "CC0"),
)
TRAIN_WEIGHTS = np.array((6, 5, 1.5, 2, 2, 1, 0.5, 0.5))

HELD_OUT_PHOTOS = (
    Photo("skimage", "camera.png", "CC0", (0.1, 0.03, 1.0, 0.63)),
    Photo("skimage", "coins.png", "no known copyright restrictions", (0.0, 0.0, 0.75, 0.634)),
    Photo("skimage", "motorcycle_left.png", "Middlebury 2014 stereo benchmark"),
    Photo("skimage", "brick.png", "CC0", (0.0, 0.0, 0.6, 0.4)),
    Photo("skimage", "gravel.png", "CC0", (0.3, 0.3, 0.6, 0.5)),
    Photo("skimage", "text.png", "public domain", (0.1, 0.0, 0.676, 1.0)),
    Photo("skimage", "ihc.png", "no known copyright restrictions", (0.5, 0.1, 1.0, 0.433)),
    Photo("skimage", "retina.jpg", "CC0", (0.05, 0.3, 0.47, 0.58)),
)
"""Never trained on, with motorcycle_right.png (the same scene) and the demo's astronaut, chelsea, coffee, rocket."""

MAX_SPEED_PX = 3.0
REFERENCE_FPS = 7
FPS_RANGE = (5, 30)
MARGIN_PX = 32  # enough for the fastest clip: 3 px * 7 / 5 fps * 7 frames = 29.4
OVERSAMPLING = 2  # the canvas is this much finer than the frames, so that part-pixel shifts stay sharp


def speed_px(motion_bucket_id: float, fps: float) -> float:
    """The camera's pan to the right in pixels a frame: proportional to the bucket, inverse to fps."""
    return MAX_SPEED_PX * motion_bucket_id / 255 * REFERENCE_FPS / fps


@dataclass(frozen=True)
class Clip:
    """Frames (T, H, W, 3) uint8 and the numbers they are conditioned on."""

    frames: np.ndarray
    motion_bucket_id: float
    fps: int


@cache
def _train_pictures() -> list[np.ndarray]:
    """The natural pictures of the training side."""
    return [photo.load() for photo in TRAIN_PHOTOS]


def _crop_photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random part (height, width, 3) of a training picture, at a random scale, flipped and recoloured at random."""
    photo = _train_pictures()[rng.choice(len(TRAIN_PHOTOS), p=TRAIN_WEIGHTS / TRAIN_WEIGHTS.sum())]
    if rng.random() < 0.5:
        photo = photo[:, ::-1]
    rows, columns = photo.shape[:2]
    crop_height = int(np.exp(rng.uniform(np.log(min(96, rows)), np.log(rows))))
    crop_width = crop_height * width // height
    # Beyond the right border the picture is mirrored, so that whole pictures can be panned over.
    top = rng.integers(0, rows - crop_height + 1)
    left = rng.integers(0, max(columns - crop_width * 2 // 3, 0) + 1)
    last = columns - 1
    mirrored = last - np.abs(last - (left + np.arange(crop_width)) % (2 * last))
    crop = photo[top : top + crop_height, mirrored]
    shrinks = crop_height > height
    crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    if rng.random() < 0.2:
        crop = crop[::-1]
    if rng.random() < 0.35:
        crop = crop[..., rng.permutation(3)]
    gain, lift = rng.uniform(0.75, 1.25, 3 if rng.random() < 0.4 else 1), rng.uniform(-25, 25)
    return np.clip((crop.astype(np.float32) - 128) * gain + 128 + lift, 0, 255).astype(np.uint8)


def pan(canvas: np.ndarray, size: tuple[int, int], speed: float, num_frames: int) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of a camera that moves right over a canvas OVERSAMPLING times finer than they."""
    height, width = size
    window = (width * OVERSAMPLING, height * OVERSAMPLING)
    frames = []
    for index in range(num_frames):
        shift = np.array([[1, 0, index * speed * OVERSAMPLING], [0, 1, 0]], np.float32)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        view = cv2.warpAffine(canvas, shift, window, flags=flags, borderMode=cv2.BORDER_REFLECT)
        frames.append(cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def make_clip(rng: np.random.Generator, size: tuple[int, int], num_frames: int) -> Clip:
    """A random clip: natural or procedural picture, any motion bucket, fps mostly 7."""
    height, width = size[0] * OVERSAMPLING, (size[1] + MARGIN_PX) * OVERSAMPLING
    canvas = _crop_photo(rng, height, width) if rng.random() < 0.55 else paint_picture(rng, height, width)
    bucket = rng.uniform(0, 255)
    fps = REFERENCE_FPS if rng.random() < 0.5 else round(np.exp(rng.uniform(*np.log(FPS_RANGE))))
    return Clip(pan(canvas, size, speed_px(bucket, fps), num_frames), bucket, fps)


def held_out_pictures(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The pictures that training never saw, by name: centre crops (H, W, 3) uint8 at the clip's size."""
    pictures = {}
    for photo in HELD_OUT_PHOTOS:
        image = photo.load()
        rows, columns = image.shape[:2]
        scale = min(rows / size[0], columns / size[1])
        height, width = int(size[0] * scale), int(size[1] * scale)
        top, left = (rows - height) // 2, (columns - width) // 2
        image = image[top : top + height, left : left + width]
        pictures[photo.name] = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return pictures
