"""Bytes to RGB uint8 pictures (H, W, 3) of the model's size.

Knows where bytes come from (a local file, a URI, a Parquet cell) and nothing of manifests or models.
"""

from __future__ import annotations

import functools
import io
import stat
import struct
import urllib.request
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from svd_batch.config import Fit
from svd_batch.errors import ItemError
from svd_batch.records import ImageRecord

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened; whatever else Pillow knows is refused, the file's name notwithstanding."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 178_000_000
MAX_BYTES = 512 * 2**20
URL_TIMEOUT_S = 30.0
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    MemoryError,
    struct.error,
    zlib.error,
)


def read_bytes(image: ImageRecord) -> bytes:
    """Return the file bytes of a picture.

    Raises: ItemError when it isn't there, isn't a regular file or is larger than MAX_BYTES; OSError from the storage.
    """
    if image.source_row is not None:
        return _embedded_bytes(image.source, image.bytes_column or "image_bytes", image.source_row)
    if image.source.startswith(("http://", "https://")):
        with urllib.request.urlopen(image.source, timeout=URL_TIMEOUT_S) as response:
            return _bounded(response.read(MAX_BYTES + 1))
    if "://" in image.source:
        import fsspec

        with fsspec.open(image.source, "rb") as file:
            return _bounded(file.read(MAX_BYTES + 1))
    path = Path(image.source)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ItemError(f"no such file: {image.image_path}") from None
    if not stat.S_ISREG(mode):
        raise ItemError(f"not a regular file: {image.image_path}")
    with path.open("rb") as file:
        return _bounded(file.read(MAX_BYTES + 1))


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise ItemError(f"the file is larger than {MAX_BYTES >> 20} MiB")
    return data


@functools.lru_cache(maxsize=2)
def _row_group(manifest: str, column: str, row_group: int) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(manifest).read_row_group(row_group, columns=[column]).column(0)


@functools.lru_cache(maxsize=16)
def _row_group_sizes(manifest: str) -> tuple[int, ...]:
    import pyarrow.parquet as pq

    metadata = pq.ParquetFile(manifest).metadata
    return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


def _embedded_bytes(manifest: str, column: str, row: int) -> bytes:
    """Return one embedded picture; the row group read last is kept, since units come in manifest order."""
    group = 0
    for size in _row_group_sizes(manifest):
        if row < size:
            break
        row -= size
        group += 1
    value = _row_group(manifest, column, group)[row].as_py()
    data = value["bytes"] if isinstance(value, dict) else value
    if data is None:
        raise ItemError("the manifest row holds no picture bytes any more")
    return _bounded(bytes(data))


def open_image(data: bytes) -> Image.Image:
    """Return the picture that `data` encodes: first frame, upright, mode RGB.

    EXIF rotation is applied, transparency is laid over white, 16-bit greys keep their upper 8 bits, everything else is
    converted by Pillow.

    Raises: ItemError for an unknown format, broken data or more than MAX_PIXELS.
    """
    if not data:
        raise ItemError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ItemError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except ItemError:
        raise
    except UnidentifiedImageError:
        raise ItemError(f"not a picture in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise ItemError(f"refused as a decompression bomb: {error}") from None
    except _DECODER_ERRORS as error:
        raise ItemError(f"broken picture: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16- and 32-bit greys, which convert() would clip
        values = np.asarray(image, dtype=np.float64)
        top = values.max(initial=0.0) if image.mode == "F" else 65535.0  # floats come as 0..1, 0..255 or 0..65535
        scale = 255.0 if top <= 1.0 else 1.0 if top <= 255.0 else 1.0 / 257.0
        return Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def fit_image(image: Image.Image, height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
    """Return the picture at exactly height x width, uint8 (H, W, 3).

    crop cuts the longer side about the centre, pad adds black bars, stretch changes the aspect ratio; all
    resample with Lanczos.
    """
    size = (width, height)
    if fit is Fit.crop:
        fitted = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    elif fit is Fit.pad:
        fitted = ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=(0, 0, 0))
    else:
        fitted = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(fitted, dtype=np.uint8)


def check_readable(images: Sequence[ImageRecord]) -> list[tuple[ImageRecord, str]]:
    """Return (image, reason) for each that can't be loaded; used before the start, on a sample or on all."""
    bad: list[tuple[ImageRecord, str]] = []
    for image in images:
        try:
            open_image(read_bytes(image))
        except Exception as error:  # the per-item boundary, as in the job: fsspec alone raises half a dozen kinds
            bad.append((image, one_line(error)))
    return bad


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an error's message on one line, shortened to `limit` characters; its type where there is no message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
