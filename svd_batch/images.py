"""Bytes to RGB uint8 pictures (H, W, 3) of the model's size.

Knows where bytes come from (a local file, an address, a Parquet cell) and nothing of manifests or models.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from svd_batch.access import ACCESS, Access, check_address, is_inside, outside, printable, short, unsecret
from svd_batch.config import Fit
from svd_batch.errors import ItemError
from svd_batch.locations import is_remote, location
from svd_batch.records import ImageRecord

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are opened; whatever else Pillow knows is refused, the file's name notwithstanding."""

_BYTES = re.compile(r"""\bb(['"])(?:\\.|(?!\1).)*\\x(?:\\.|(?!\1).)*\1""")
"""How Python shows bytes that are no text, in a decoder's message."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
PART_BYTES = 2**20
NUM_DOWNLOADS = 16
ROWS = 256
"""Rows of a picture that are brought to RGB at once where that takes more than a byte a channel."""

_NO_FILE = {errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EACCES, errno.EINVAL}
"""What the name of a picture may be at fault for; other errors are the storage's."""

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


def read_bytes(image: ImageRecord, access: Access = ACCESS) -> bytes:
    """Return the file bytes of a picture.

    Raises: ItemError when it isn't there, isn't a regular file, lies outside `access` or is too large; OSError from the
        storage.
    """
    if image.source_row is None and "://" in image.source:
        _check_allowed(image.source, access)
    if image.source_row is not None:
        data = _embedded_bytes(image.source, image.bytes_column or "image_bytes", image.source_row)
    elif image.source.lower().startswith(("http://", "https://")):
        from svd_batch.download import download

        data = download(image.source, access)
    elif "://" in image.source:
        import fsspec

        with fsspec.open(image.source, "rb") as file:
            data = file.read(access.max_bytes + 1)
    else:
        data = _file_bytes(image.source, image.image_path or image.source, access)
    if len(data) > access.max_bytes:
        raise ItemError(f"the file is larger than {access.max_bytes >> 20} MiB")
    return data


def _check_allowed(address: str, access: Access) -> None:
    try:
        check_address(address, access)
    except ValueError as error:
        raise ItemError(str(error)) from None


def _file_bytes(source: str, name: str, access: Access) -> bytes:
    """Return a regular file's bytes; `name` is what messages call it. Pipes and devices are never opened."""
    if access.allowed_roots:
        source = os.path.realpath(source)
        if not is_inside(source, access):  # asked again: a link may have changed since the manifest was read
            raise ItemError(f"{short(name)} leads {outside(access)}")
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):  # noqa: PTH116
            raise ItemError(f"not a regular file: {short(name)}")
        # O_NONBLOCK: what has become a pipe since then must not hold up the run either
        file = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ItemError(f"no such file: {short(name)}") from None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise ItemError(f"{(error.strerror or 'no file').lower()}: {short(name)}") from None
    with os.fdopen(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ItemError(f"not a regular file: {short(name)}")
        data = bytearray()
        while len(data) <= access.max_bytes and (
            part := stream.read(PART_BYTES)
        ):  # asked for all, it makes room for all
            data += part
        return bytes(data)


def _parquet(manifest: str) -> Any:
    import pyarrow.parquet as pq

    path = location(manifest)
    return pq.ParquetFile(path.open("rb") if is_remote(path) else path)


@functools.lru_cache(maxsize=2)
def _row_group(manifest: str, column: str, row_group: int) -> Any:
    return _parquet(manifest).read_row_group(row_group, columns=[column]).column(0)


@functools.lru_cache(maxsize=16)
def _row_group_sizes(manifest: str) -> tuple[int, ...]:
    metadata = _parquet(manifest).metadata
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
    return bytes(data)


def open_image(data: bytes, max_pixels: int = ACCESS.max_pixels) -> Image.Image:
    """Return the picture that `data` encodes: first frame, upright, mode RGB.

    EXIF rotation is applied, transparency is laid over white, 16-bit greys keep their upper 8 bits, everything else is
    converted by Pillow.

    Raises: ItemError for an unknown format, broken data or, from the header alone, more than `max_pixels`.
    """
    if not data:
        raise ItemError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise ItemError(f"{image.width}x{image.height} pixels are more than max_pixels={max_pixels}")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy would take as much memory again
            return _to_rgb(image)
    except ItemError:
        raise
    except UnidentifiedImageError:
        raise ItemError(f"not a picture in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:  # by its header alone, at twice Pillow's own limit
        raise ItemError(f"more pixels than max_pixels={max_pixels}: refused as a decompression bomb") from None
    except _DECODER_ERRORS as error:
        raise ItemError(f"broken picture: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16- and 32-bit greys, which convert() would clip
        values = np.asarray(image)
        top = values.max(initial=0.0) if image.mode == "F" else 65535.0  # floats come as 0..1, 0..255 or 0..65535
        scale = 255.0 if top <= 1.0 else 1.0 if top <= 255.0 else 1.0 / 257.0
        grey = np.empty(values.shape, np.uint8)
        for row in range(0, len(values), ROWS):  # as a whole it would take four times 8 bytes a pixel
            part = values[row : row + ROWS].astype(np.float64)
            grey[row : row + ROWS] = np.clip(part * scale, 0, 255).round()
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Return the picture with its transparency laid over white, in parts: at once it takes 24 bytes a pixel."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS):
        part = image.crop((0, top, image.width, min(top + ROWS, image.height))).convert("RGBA")
        white = Image.new("RGBA", part.size, (255, 255, 255, 255))
        result.paste(Image.alpha_composite(white, part).convert("RGB"), (0, top))
    return result


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


def check_readable(images: Sequence[ImageRecord], access: Access = ACCESS) -> list[tuple[ImageRecord, str]]:
    """Return (image, reason) for each that can't be loaded; used before the start, on a sample or on all.

    Pictures by address come several at a time, since each may take its whole time limit.
    """
    with ThreadPoolExecutor(NUM_DOWNLOADS) as pool:
        asked = [pool.submit(_reason, i, access) if "://" in i.source else None for i in images]
        reasons = [_reason(i, access) if a is None else a.result() for i, a in zip(images, asked, strict=True)]
    return [(image, reason) for image, reason in zip(images, reasons, strict=True) if reason]


def _reason(image: ImageRecord, access: Access) -> str:
    """Return why a picture can't be loaded; nothing where it can."""
    try:
        open_image(read_bytes(image, access), access.max_pixels)
    except Exception as error:  # the per-item boundary, as in the job: fsspec alone raises half a dozen kinds
        return one_line(error)
    return ""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an error's message on one line, shortened to `limit` characters; its type where there is no message.

    Without control characters, bytes, tokens, and what in addresses may be secret.
    """
    text = _BYTES.sub("bytes", unsecret(" ".join(str(error).split()))) or type(error).__name__
    text = printable(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
