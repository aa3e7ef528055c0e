"""Frames (T, H, W, 3) uint8 to a video file, and back. Uses the ffmpeg inside imageio-ffmpeg.

Files are checked by the one inside OpenCV: it needs no process, and starting one costs as much as the encoding.

One encoder thread: the bytes then don't depend on the machine's number of cores.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_batch.config import Codec, VideoConfig
from svd_batch.locations import is_remote, local_copy

SUFFIX = {Codec.h264: "mp4", Codec.gif: "gif", Codec.webp: "webp", Codec.ffv1: "mkv"}
_BITEXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-threads", "1"]


def suffix(codec: Codec) -> str:
    """Return the file name suffix, without the dot."""
    return SUFFIX[codec]


def _encoder(config: VideoConfig) -> tuple[str, str, list[str]]:
    """Return (encoder, pixel format, further ffmpeg arguments)."""
    if config.codec is Codec.gif:
        palette = "split[a][b];[a]palettegen=stats_mode=diff[p];[b][p]paletteuse=dither=bayer:bayer_scale=3"
        return "gif", "pal8", ["-filter_complex", palette, "-loop", "0"]
    if config.codec is Codec.webp:
        quality = str(round(10 * (config.quality or 0)))
        return "libwebp", "yuv420p", ["-quality", quality, "-loop", "0"]
    if config.codec is Codec.ffv1:
        return "ffv1", "bgr0", ["-level", "3", "-g", "1"]
    crf = str(round(51 * (1 - (config.quality or 0) / 10)))
    bt709 = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]  # else players guess by size
    scale = ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int"]
    return "libx264", "yuv420p", ["-crf", crf, "-preset", "medium", *scale, *bt709, "-movflags", "+faststart"]


def write_video(
    path: Path,
    frames: NDArray[np.uint8],
    playback_fps: int,
    config: VideoConfig,
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Write frames (T, H, W, 3) uint8 as the file that `config` describes.

    `parameters`, where given and switched on, go into the file's `comment` tag as JSON.

    Raises: OSError with ffmpeg's own last words when it fails (a full disk, say).
    """
    import imageio_ffmpeg

    encoder, pix_fmt, options = _encoder(config)
    if parameters is not None and config.embed_parameters:
        options += ["-metadata", "comment=" + json.dumps(dict(parameters), sort_keys=True)]
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (frames.shape[2], frames.shape[1]),
        fps=playback_fps,
        codec=encoder,
        pix_fmt_in="rgb24",
        pix_fmt_out=pix_fmt,
        quality=None,
        bitrate=None,
        macro_block_size=1,
        ffmpeg_log_level="error",
        output_params=[*options, *_BITEXACT],
    )
    writer.send(None)
    try:
        for frame in np.ascontiguousarray(frames):
            writer.send(frame)
    finally:
        writer.close()
    if not path.exists() or path.stat().st_size == 0:
        raise OSError(f"ffmpeg wrote nothing to {path.name}")


@dataclass(frozen=True)
class Probe:
    """What a video file really holds, found by decoding all of it."""

    num_frames: int
    height: int
    width: int
    playback_fps: float


def read_frames(path: Path) -> tuple[NDArray[np.uint8], float]:
    """Return (frames (T, H, W, 3) uint8, frames per second) of a file that `write_video` wrote.

    Raises: OSError when it can't be decoded.
    """
    if is_remote(path):
        with local_copy(path) as copy:
            return read_frames(copy)
    if path.suffix in (".gif", ".webp"):
        return _read_with_pillow(path)
    import imageio_ffmpeg

    options = ["-f", _demuxer(path)]
    try:
        reader = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24", input_params=options)
        meta = next(reader)
        width, height = meta["size"]
        frames = [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader]
    except (OSError, RuntimeError, StopIteration, ValueError, KeyError) as error:
        raise OSError(f"{path.name} does not decode: {' '.join(str(error).split())[-200:]}") from None
    if not frames:
        raise OSError(f"{path.name} does not decode: no frames")
    return np.stack(frames), float(meta["fps"])


def _read_with_pillow(path: Path) -> tuple[NDArray[np.uint8], float]:
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
            duration_ms = float(image.info.get("duration") or 0) or 100.0
    except (UnidentifiedImageError, EOFError, SyntaxError) as error:
        raise OSError(f"{path.name} does not decode: {error}") from None
    return np.stack(frames), 1000.0 / duration_ms


_DEMUXERS = {".mp4": "mov", ".mkv": "matroska"}
_opening = threading.Lock()


@functools.cache
def silence_opencv() -> None:
    """Keep OpenCV and the FFmpeg in it from telling of broken files on stderr: who reads one says so."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def probe(path: Path) -> Probe:
    """Return what the file holds; every frame is decoded, in this process, in one thread.

    Raises: OSError when it can't be decoded.
    """
    if path.suffix in (".gif", ".webp"):
        frames, fps = _read_with_pillow(path)
        return Probe(frames.shape[0], frames.shape[1], frames.shape[2], fps)
    import cv2

    with _decoded(path) as (capture, num_frames):
        height, width = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        return Probe(num_frames, height, width, float(capture.get(cv2.CAP_PROP_FPS)))


def count_frames(path: Path) -> int:
    """Return `probe`'s num_frames in fewer calls of OpenCV, each of which waits for Python's other threads.

    Raises: OSError when it can't be decoded.
    """
    if path.suffix in (".gif", ".webp"):
        return probe(path).num_frames
    with _decoded(path) as (_, num_frames):
        return num_frames


def _demuxer(path: Path) -> str:
    """Return as what ffmpeg is to read a file: by itself it would try all that it knows, lists of other files too.

    Raises: OSError where the name is none of `write_video`'s.
    """
    if path.suffix not in _DEMUXERS:
        raise OSError(f"{path.name} is no video of a kind that is written here")
    return _DEMUXERS[path.suffix]


def _opened(path: Path) -> Any:
    """Open a file in OpenCV; that takes a quarter less time where no format need be found out.

    OpenCV is told which by a variable of the whole process, so files are opened one at a time.
    """
    import cv2

    silence_opencv()
    options = f"input_format;{_demuxer(path)}"
    with _opening:
        if os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS") != options:
            os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = options
        return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])


@contextmanager
def _decoded(path: Path) -> Iterator[tuple[Any, int]]:
    """Yield a file in OpenCV's hands after the last of its frames, and how many these were."""
    capture = _opened(path)
    try:
        num_frames = 0
        while capture.grab():
            num_frames += 1
        if num_frames == 0:
            if not path.is_file():
                raise OSError(f"{path.name} is missing")
            raise OSError(f"{path.name} does not decode: no frames")
        yield capture, num_frames
    finally:
        capture.release()
