"""Bytes to RGB uint8 pictures of the model's size."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from builders import CELL, STORED, encode, make_image, picture_bytes, write_parquet
from PIL import Image

from svd_batch.access import ACCESS, Access
from svd_batch.config import Fit
from svd_batch.errors import ItemError
from svd_batch.images import FORMATS, check_readable, fit_image, one_line, open_image, read_bytes
from svd_batch.load import load_image
from svd_batch.records import ImageRecord, PlannedVideo, WorkUnit

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def record_of(path: Path, **changes: Any) -> ImageRecord:
    """Return the record of a picture on disk."""
    return make_image(path.name, image_path=path.name, source=str(path), **changes)


def pixel(data: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    """Return one pixel of the opened picture."""
    found = open_image(data).getpixel(at)
    assert isinstance(found, tuple)
    return found


def quadrants(height: int = 8, width: int = 12) -> np.ndarray[Any, Any]:
    """Return a picture whose four quarters have colours of their own."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    return pixels


def header_only_png(width: int, height: int) -> bytes:
    """Return a PNG of some bytes that claims a size."""
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0" * 9)):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data


# --- opening ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_opened_as_rgb_at_its_own_size(kind: str):
    image = open_image(picture_bytes(kind, (24, 16)))
    assert (image.mode, image.size) == ("RGB", (24, 16))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_turned_upright_as_its_exif_says(orientation: int, kind: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](quadrants()))
    opened = open_image(encode(Image.fromarray(stored), kind, exif=exif))
    assert np.array_equal(np.asarray(opened), quadrants())


def test_the_exif_of_a_jpeg_counts_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(picture_bytes("JPEG", (24, 16), exif=exif)).size == (16, 24)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), WHITE),
        ("LA", (0, 255), BLACK),
        ("L", 90, (90, 90, 90)),
        ("1", 1, WHITE),
        ("1", 0, BLACK),
        ("RGB", RED, RED),
    ],
)
def test_every_mode_becomes_rgb_with_transparency_over_white(mode: str, colour: Any, expected: tuple[int, ...]):
    assert pixel(encode(Image.new(mode, (4, 4), colour))) == expected


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_becomes_white(mode: str):
    image = Image.new("RGB", (4, 4), BLACK).convert(mode)
    image.putpixel((3, 3), RED if mode == "RGB" else 1)
    transparent: Any = BLACK if mode == "RGB" else 0
    data = encode(image, transparency=transparent)
    assert pixel(data) == WHITE
    assert pixel(data, (3, 3)) != WHITE


def test_a_palette_with_half_transparent_colours_is_laid_over_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert pixel(encode(image, transparency=bytes([51, 255]))) == (204, 204, 204)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257 * 200, 200), (65535, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_16_bit_grey_keeps_its_upper_8_bits(value: int, expected: int, kind: str):
    data = encode(Image.fromarray(np.full((4, 4), value, np.uint16)), kind)
    assert pixel(data) == (expected,) * 3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(("ink", "expected"), [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)])
def test_no_ink_is_white_and_full_black_ink_is_black(kind: str, ink: tuple[int, ...], expected: int):
    found = pixel(encode(Image.new("CMYK", (8, 8), ink), kind))
    assert np.allclose(found, expected, atol=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_of_several_frames_the_first_counts(kind: str):
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), (0, 0, 255))
    data = encode(first, kind, save_all=True, append_images=[second])
    red, _, blue = pixel(data, (8, 8))
    assert red > 200 > 50 > blue


# --- refusing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"This is a text and no picture.", "not a picture in one of the formats JPEG, PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (picture_bytes("JPEG")[:40], "picture"),
        (picture_bytes("JPEG", (64, 64))[:-900], "broken picture"),
        (picture_bytes("PNG", (64, 64))[:500], "broken picture"),
        (picture_bytes("WEBP", (64, 64))[:200], "picture"),
    ],
    ids=["empty", "text", "svg", "png signature", "jpeg header", "cut jpeg", "cut png", "cut webp"],
)
def test_what_is_no_whole_picture_is_refused_with_the_reason(data: bytes, message: str):
    with pytest.raises(ItemError, match=message):
        open_image(data)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PPM", "TGA", "PCX", "PDF", "ICNS", "MPO"])
def test_a_format_that_is_not_on_the_list_is_refused_though_pillow_knows_it(kind: str):
    data = picture_bytes(kind, (16, 16)) if kind != "MPO" else b"\xff\xd8\xff\xe2MPF\0" + b"\0" * 100
    with pytest.raises(ItemError, match="picture"):
        open_image(data)


def is_opened_or_refused(data: bytes) -> bool:
    """Return whether the bytes give an RGB picture or an ItemError; anything else is raised."""
    try:
        return open_image(data).mode == "RGB"
    except ItemError:
        return True


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_bytes_give_a_picture_or_a_refusal_and_nothing_else(kind: str, seed: int):
    whole = picture_bytes(kind, (24, 16))
    random = np.random.default_rng(seed)
    for _ in range(60):
        data = bytearray(whole)
        for place in random.integers(0, min(len(data), 200), 3):
            data[place] = random.integers(256)
        assert is_opened_or_refused(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_exif_that_can_not_be_written_back_is_no_reason_to_crash(kind: str):
    assert is_opened_or_refused(picture_bytes(kind, exif=odd_exif()))


def odd_exif() -> bytes:
    """Return an EXIF block whose orientation is 6 and whose image width is text where a number belongs."""
    entries = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0") + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + entries + struct.pack("<I", 0)


def test_a_bomb_is_refused_from_its_header_without_being_decoded():
    with pytest.raises(ItemError, match=r"30000x30000|decompression bomb"):
        open_image(header_only_png(30000, 30000))


def test_a_picture_of_one_row_more_than_allowed_is_refused():
    with pytest.raises(ItemError, match=r"pixels are more than|decompression bomb"):
        open_image(header_only_png(ACCESS.max_pixels // 10_000, 10_001))


def test_a_picture_of_the_most_pixels_allowed_is_no_bomb():
    with pytest.raises(ItemError, match="broken picture"):  # since the header is all there is of it
        open_image(header_only_png(ACCESS.max_pixels // 10_000, 10_000))


# --- reading ------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_is(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"anything")
    assert read_bytes(record_of(path)) == b"anything"


def test_a_store_of_fsspec_is_read_where_it_is_an_allowed_root(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"anything")
    image = make_image(source="memory://pictures/a.png")
    fsspec.filesystem("memory").pipe("/pictures/a.png", path.read_bytes())
    assert read_bytes(image, Access(allowed_roots=("memory://pictures",))) == b"anything"


def test_a_missing_file_is_named_as_the_manifest_names_it(tmp_path: Path):
    with pytest.raises(ItemError, match=r"^no such file: a\.png$"):
        read_bytes(record_of(tmp_path / "a.png"))


def test_a_folder_is_no_picture(tmp_path: Path):
    with pytest.raises(ItemError, match="not a regular file"):
        read_bytes(record_of(tmp_path))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate((5 << 20) + 1)
    with pytest.raises(ItemError, match="larger than 5 MiB"):
        read_bytes(record_of(path), Access(max_bytes=5 << 20))


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 100])
def test_an_embedded_picture_comes_from_its_own_row_whatever_the_row_groups(tmp_path: Path, row_group_size: int):
    rows = [f"picture {i}".encode() for i in range(7)]
    path = write_parquet(tmp_path / "m.parquet", {"image_bytes": rows}, row_group_size=row_group_size)
    found = [read_bytes(make_image(source=str(path), source_row=i, bytes_column="image_bytes")) for i in range(7)]
    assert found == rows


def test_embedded_pictures_may_be_read_in_any_order(tmp_path: Path):
    rows = [f"picture {i}".encode() for i in range(6)]
    path = write_parquet(tmp_path / "m.parquet", {"image_bytes": rows}, row_group_size=1)
    order = [5, 0, 3, 3, 1, 5]
    found = [read_bytes(make_image(source=str(path), source_row=i, bytes_column="image_bytes")) for i in order]
    assert found == [rows[i] for i in order]


def test_a_picture_in_a_struct_of_hugging_face_is_read(tmp_path: Path):
    path = write_parquet(tmp_path / "m.parquet", {"image": [{"bytes": b"one", "path": None}]})
    assert read_bytes(make_image(source=str(path), source_row=0, bytes_column="image")) == b"one"


# --- to the model's size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (1, 1), (97, 65), (300, 20), (20, 300), (1000, 1), (1, 1000)])
def test_every_fit_gives_exactly_the_models_size(fit: Fit, size: tuple[int, int]):
    pixels = fit_image(Image.new("RGB", size, RED), 64, 96, fit)
    assert (pixels.shape, pixels.dtype) == ((64, 96, 3), np.uint8)


@pytest.mark.parametrize("fit", Fit)
def test_a_picture_of_the_right_size_keeps_its_pixels(fit: Fit):
    image = open_image(picture_bytes("PNG", (96, 64)))
    assert np.array_equal(fit_image(image, 64, 96, fit), np.asarray(image))


def square_in(width: int, height: int, side: int = 60) -> Image.Image:
    """Return a black picture with a white square at its centre."""
    image = Image.new("RGB", (width, height), BLACK)
    image.paste(WHITE, ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    return image


def box_of(pixels: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of what is bright."""
    bright = pixels[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


@pytest.mark.parametrize("fit", [Fit.crop, Fit.pad])
@pytest.mark.parametrize("size", [(300, 100), (100, 300), (100, 100), (150, 100)])
def test_crop_and_pad_keep_a_square_square_and_at_the_centre(fit: Fit, size: tuple[int, int]):
    top, left, height, width = box_of(fit_image(square_in(*size), 64, 96, fit))
    assert abs(height - width) <= 1
    assert abs(top + height / 2 - 32) <= 1
    assert abs(left + width / 2 - 48) <= 1


def test_stretch_changes_the_aspect_ratio():
    _, _, height, width = box_of(fit_image(square_in(100, 100), 64, 192, Fit.stretch))
    assert width == pytest.approx(3 * height, abs=4)


@pytest.mark.parametrize(
    ("size", "bars", "inside"),
    [((200, 100), np.s_[:8], np.s_[8:-8]), ((100, 200), np.s_[:, :32], np.s_[:, 32:-32])],
    ids=["wide", "tall"],
)
def test_pad_shows_the_whole_picture_between_black_bars(size: tuple[int, int], bars: Any, inside: Any):
    pixels = fit_image(Image.new("RGB", size, WHITE), 64, 96, Fit.pad)
    assert pixels[bars].max() == 0
    assert pixels[inside].min() == 255


def test_crop_cuts_the_longer_side_about_the_centre():
    image = Image.new("RGB", (300, 64), BLACK)
    image.paste(WHITE, (102, 0, 198, 64))
    assert fit_image(image, 64, 96, Fit.crop).min() == 255


# --- from a manifest row to pixels ----------------------------------------------------------------------------


def unit_of(image: ImageRecord) -> WorkUnit:
    """Return a unit of one video."""
    return WorkUnit(image, (PlannedVideo("ab" * 10, CELL, 1, 0),))


def test_a_loaded_picture_has_the_models_size_and_the_sha256_of_its_file(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes())
    loaded = load_image(unit_of(record_of(path)), 64, 96, Fit.crop)
    assert loaded.picture is not None
    assert loaded.picture.shape == (64, 96, 3)
    assert loaded.sha256 == hashlib.sha256(picture_bytes()).hexdigest()


def test_a_picture_that_changed_since_it_was_recorded_is_refused(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes(seed=1))
    recorded = hashlib.sha256(picture_bytes(seed=0)).hexdigest()
    loaded = load_image(unit_of(record_of(path, sha256=recorded)), 64, 96, Fit.crop)
    assert loaded.picture is None
    assert loaded.error is not None
    assert loaded.error.error_message.startswith("the picture has changed")


def test_a_sha256_in_capitals_is_the_same_sha256(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes())
    recorded = hashlib.sha256(picture_bytes()).hexdigest().upper()
    assert load_image(unit_of(record_of(path, sha256=recorded)), 64, 96, Fit.crop).error is None


def test_whatever_a_picture_does_loading_gives_a_failure_of_one_line(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_text("no picture\n")
    loaded = load_image(unit_of(record_of(path)), 64, 96, Fit.crop)
    assert loaded.error is not None
    assert (loaded.error.stage, loaded.error.error_type, loaded.error.video_id) == ("load", "ItemError", None)
    assert "\n" not in loaded.error.error_message


def test_checking_names_the_pictures_that_will_fail_and_no_others(tmp_path: Path):
    (tmp_path / "good.png").write_bytes(picture_bytes())
    (tmp_path / "text.jpg").write_text("no picture")
    records = [record_of(tmp_path / name) for name in ("good.png", "text.jpg", "missing.png")]
    found = check_readable(records)
    assert [image.image_path for image, _ in found] == ["text.jpg", "missing.png"]


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("a\n  b\tc"), "a b c"), (ValueError(), "ValueError"), (ValueError("x" * 999), "x" * 299 + "…")],
    ids=["lines", "none", "long"],
)
def test_an_error_is_told_on_one_line(error: Exception, line: str):
    assert one_line(error) == line


def test_checking_survives_a_storage_that_is_not_there():
    records = [make_image("x", image_path=uri, source=uri) for uri in ("nowhere://a.jpg", "http://bad url/a.jpg")]
    assert len(check_readable(records)) == 2
