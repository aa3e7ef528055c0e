"""Pictures of every odd and broken kind, each made on the spot, with what loading it must give."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from builders import STORED, encode, picture_bytes
from PIL import Image

Make = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    file_name: str
    make: Make
    """Makes the file at a path."""
    refused: str | None = None
    """What the failure's message must match; None where the picture must load."""
    colour: tuple[int, int, int] | None = None
    """The colour at the centre of the loaded picture."""


RED, WHITE = (255, 0, 0), (255, 255, 255)
NO_PICTURE = "^not a picture in one of the formats JPEG, PNG"
BROKEN = "^broken picture|^not a picture"


def written(data: bytes) -> Make:
    """Return what writes some bytes."""
    return lambda path: path.write_bytes(data)


def red(mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (40, 30), **options: Any) -> Make:
    """Return what writes a red picture of some mode and format."""
    return written(encode(Image.new("RGB", size, RED).convert(mode), kind, **options))


def chunk(name: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes = b"", *, depth: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    """Return a PNG with any header, any extra chunks and any compressed data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    """Return a JPEG whose header claims a size."""
    data = bytearray(picture_bytes("JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_of_size(width: int, height: int) -> bytes:
    """Return a GIF whose screen claims a size."""
    return b"GIF89a" + struct.pack("<HH", width, height) + picture_bytes("GIF")[10:]


def text_bomb() -> bytes:
    """Return a small PNG whose compressed comment becomes 64 MiB."""
    return png(1, 1, zlib.compress(b"\0\0\0\0"), more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20))))


def turned(orientation: int, kind: str) -> Make:
    """Return what writes a picture whose upper left is red once it is upright, as a camera would store it."""
    upright = np.zeros((30, 40, 3), np.uint8)
    upright[10:20, 15:25] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    return written(encode(Image.fromarray(stored), kind, exif=exif))


def animated(kind: str) -> Make:
    """Return what writes two frames, the first of them red."""
    frames = [Image.new("RGB", (40, 30), RED), Image.new("RGB", (40, 30), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    return written(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))


def loop(path: Path) -> None:
    """Make a link to itself."""
    path.symlink_to(path.name)


def link_to(target: str) -> Make:
    """Return what makes a link."""
    return lambda path: path.symlink_to(target)


def palette_with_alpha() -> bytes:
    """Return a palette PNG of which every pixel is see-through."""
    image = Image.new("P", (40, 30), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return encode(image, transparency=bytes([0, 255]))


def _broken() -> Iterator[tuple[str, Kind]]:
    """Yield files that are no whole picture."""
    page = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        data = picture_bytes(kind, (64, 64))
        for part in (2, 4) if kind in ("JPEG", "PNG", "WEBP") else (2,):
            yield (
                f"{kind} cut to 1/{part}",
                Kind(f"cut{part}.{kind.lower()}", written(data[: len(data) // part]), BROKEN),
            )
    yield "no bytes", Kind("empty.jpg", written(b""), "^the file is empty$")
    yield "one byte", Kind("one.png", written(b"\x89"), NO_PICTURE)
    yield "zeros", Kind("zeros.png", written(bytes(4096)), NO_PICTURE)
    yield "HTML named .jpg", Kind("page.jpg", written(page), NO_PICTURE)
    yield "text named .jpg", Kind("text.jpg", written(b"Forbidden\n"), NO_PICTURE)
    yield "JSON named .png", Kind("answer.png", written(b'{"error": 403}'), NO_PICTURE)
    yield "signature alone", Kind("signature.png", written(b"\x89PNG\r\n\x1a\n"), BROKEN)
    yield "wrong checksum", Kind("crc.png", written(picture_bytes().replace(b"IDAT", b"IDAX")), BROKEN)
    yield "random PNG data", Kind("random.png", written(png(40, 30, b"\x78\x9c" + bytes(range(200)))), BROKEN)


def _formats() -> Iterator[tuple[str, Kind]]:
    """Yield formats that are not on the list, under their own names and others."""
    for kind in ("EPS", "PDF", "ICO", "PPM", "TGA", "ICNS", "DDS", "JPEG2000"):
        yield f"{kind} as itself", Kind(f"odd.{kind.lower()}", written(picture_bytes(kind, (16, 16))), NO_PICTURE)
    postscript = picture_bytes("EPS", (16, 16))
    yield "EPS named .png", Kind("postscript.png", written(postscript), NO_PICTURE)
    psd = b"8BPS" + struct.pack(">HxxxxxxHIIHH", 1, 3, 16, 16, 8, 3) + bytes(12) + struct.pack(">H", 0) + bytes(768)
    yield "PSD", Kind("layers.psd", written(psd), NO_PICTURE)
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "SVG", Kind("drawing.svg", written(svg), NO_PICTURE)
    yield "PDF named .jpg", Kind("paper.jpg", written(picture_bytes("PDF", (16, 16))), NO_PICTURE)
    yield "zip", Kind("zip.png", written(b"PK\x03\x04" + bytes(60)), NO_PICTURE)
    yield "mp4", Kind("clip.jpg", written(b"\0\0\0\x18ftypmp42" + bytes(60)), NO_PICTURE)


def _bombs() -> Iterator[tuple[str, Kind]]:
    """Yield small files that would become large ones."""
    large = r"pixels are more than max_pixels|decompression bomb"
    yield "PNG of 10¹⁰ pixels", Kind("bomb.png", written(png(100_000, 100_000)), large)
    yield "PNG of 4·10¹⁸ pixels", Kind("huge.png", written(png(2**31 - 1, 2**31 - 1)), large)
    yield "JPEG of 4·10⁹ pixels", Kind("bomb.jpg", written(jpeg_of_size(65500, 65500)), large)
    yield "GIF of 4·10⁹ pixels", Kind("bomb.gif", written(gif_of_size(65535, 65535)), large)
    yield "PNG with 64 MiB of comment", Kind("comment.png", written(text_bomb()), BROKEN)
    yield "no width", Kind("flat.png", written(png(0, 10)), BROKEN)


def _places() -> Iterator[tuple[str, Kind]]:
    """Yield names that are no file of bytes."""
    yield "missing", Kind("missing.png", lambda path: None, "^no such file: missing.png$")
    yield "folder", Kind("folder.png", Path.mkdir, "^not a regular file: folder.png$")
    yield "pipe", Kind("pipe.png", os.mkfifo, "^not a regular file: pipe.png$")
    yield "device", Kind("null.png", link_to("/dev/null"), "^not a regular file: null.png$")
    yield "endless device", Kind("zero.png", link_to("/dev/zero"), "^not a regular file: zero.png$")
    yield "link to itself", Kind("loop.png", loop, "^too many levels of symbolic links: loop.png$")
    yield "dangling link", Kind("dangling.png", link_to("nowhere.png"), "^no such file: dangling.png$")
    yield "file as a folder", Kind("text.jpg/a.png", lambda path: None, "^(not a directory|no such file)")
    yield "name too long", Kind("n" * 300 + ".png", lambda path: None, "^file name too long: n+…n+.png$")
    yield "file of the kernel", Kind("environ.png", link_to("/proc/self/environ"), NO_PICTURE + "|no such file|empty")


def _odd() -> Iterator[tuple[str, Kind]]:
    """Yield pictures that are odd and must load."""
    for orientation in range(1, 9):
        kind = "TIFF" if orientation % 2 else "PNG"
        yield f"orientation {orientation}", Kind(f"turned{orientation}.png", turned(orientation, kind), colour=RED)
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        yield f"animated {kind}", Kind(f"animated.{kind.lower()}", animated(kind), colour=RED)
    deep = Image.fromarray(np.full((30, 40), 65535, np.uint16))
    yield "16 bit", Kind("deep.png", written(encode(deep)), colour=WHITE)
    yield "16 bit TIFF", Kind("deep.tiff", written(encode(deep, "TIFF")), colour=WHITE)
    yield (
        "16 bit RGB",
        Kind("d.png", written(png(1, 1, zlib.compress(b"\0" + b"\xff\xff\0\0\0\0"), depth=16)), colour=RED),
    )
    yield "1 bit", Kind("bit.png", written(encode(Image.new("1", (40, 30), 1))), colour=WHITE)
    yield "floats", Kind("float.tiff", written(encode(Image.new("F", (40, 30), 1.0), "TIFF")), colour=WHITE)
    yield "palette", Kind("palette.png", red("P"), colour=RED)
    yield "palette with alpha", Kind("alpha.png", written(palette_with_alpha()), colour=WHITE)
    yield "grey with alpha", Kind("la.png", written(encode(Image.new("LA", (40, 30), (0, 0)))), colour=WHITE)
    yield "CMYK", Kind("cmyk.tiff", red("CMYK", "TIFF"), colour=RED)
    yield "CMYK JPEG", Kind("cmyk.jpg", red("CMYK", "JPEG"))
    yield "progressive JPEG", Kind("progressive.jpg", red(kind="JPEG", progressive=True))
    yield "1 x 1", Kind("dot.png", red(size=(1, 1)), colour=RED)
    yield "long and thin", Kind("long.png", red(size=(60_000, 1)), colour=RED)
    yield "tall and thin", Kind("tall.png", red(size=(1, 60_000)), colour=RED)
    yield "PNG named .jpg", Kind("png.jpg", red(), colour=RED)
    yield "WebP without a suffix", Kind("webp", red(kind="WEBP", lossless=True), colour=RED)
    yield (
        "bytes after its end",
        Kind("tail.png", written(encode(Image.new("RGB", (4, 4), RED)) + b"PK\3\4" * 99), colour=RED),
    )
    names = (
        "Ünï côdé 漢字 🦀.png",
        "n" * 251 + ".png",
        "-rf; $(id) `id` & %00.png",
        "a\nb\x1b[31m.png",
        "\u202egnp.png",
    )
    for name in names:
        yield f"named {name[:20]!r}", Kind(name, red(), colour=RED)
    yield "link to a picture", Kind("link.png", link_to("dot.png"), colour=RED)


KINDS: dict[str, Kind] = dict((*_broken(), *_formats(), *_bombs(), *_places(), *_odd()))
