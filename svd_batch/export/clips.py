"""Clips in the two forms that other tools play: mp4 and GIF."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from svd_batch.config import VideoConfig
from svd_batch.errors import UserError
from svd_batch.video import read_frames, write_video

_QUALITY = 9.0


def as_mp4(source: Path, target: Path) -> None:
    """Write a WebP or FFV1 clip again as an mp4 that every browser plays.

    Raises: UserError when it can't be decoded.
    """
    try:
        frames, fps = read_frames(source)
    except OSError as error:
        raise UserError(f"OUTPUT: {error}; see svd-batch verify") from None
    write_video(target, frames, max(1, round(fps)), VideoConfig(quality=_QUALITY, embed_parameters=False))


def as_gif(source: Path, longest_px: int) -> tuple[bytes, int, int]:
    """Return (an endless GIF, its height, its width) of a clip, scaled down to `longest_px` where it is larger.

    Raises: UserError when it can't be decoded.
    """
    try:
        frames, fps = read_frames(source)
    except OSError as error:
        raise UserError(f"OUTPUT: {error}; see svd-batch verify") from None
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((longest_px, longest_px))
    buffer = io.BytesIO()
    first, *others = pictures
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=max(20, round(1000 / fps)), loop=0)
    return buffer.getvalue(), first.height, first.width
