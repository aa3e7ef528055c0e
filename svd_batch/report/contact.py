"""A contact sheet of each picture: its whole grid of clips as one PNG, and playing in step as one GIF.

Bounded whatever the sweep: a grid of many steps shows evenly some of them and says so, tiles shrink to fit.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from svd_batch.analysis import Videos, read_videos, wording
from svd_batch.analysis.axes import AxisCodes, find_axes
from svd_batch.locations import filled
from svd_batch.report.canvas import shortened
from svd_batch.store import move
from svd_batch.video import read_frames

T = TypeVar("T")

MOST_STEPS = 16
"""Columns, and rows, of a sheet."""
SHEET_PX = (2400, 3200)
GIF_PX = (960, 960)
"""Largest width and height, but that no tile gets smaller than LEAST_TILE_PX."""
MOST_GIF_FRAMES = 25
LEAST_TILE_PX = 32
_GAP, _HEAD, _FONT = 6, 58, 14
_GROUND, _INK, _SOFT, _HOLE = (255, 255, 255), (28, 31, 36), (93, 99, 109), (236, 236, 232)
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Sheet:
    """One picture's grid."""

    image_id: str
    across: str
    down: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    files: dict[tuple[int, int], str]
    """The clip of a (row, column), below the output folder."""
    num_left_out: int
    """Clips that no tile shows: further steps and further seeds."""


def write_contact_sheets(root: Path, folder: Path) -> Iterator[Path]:
    """Write <image>.png and <image>.gif of each picture of an output folder, and yield the PNGs' paths."""
    videos = read_videos([root])
    axes = sorted(find_axes(videos), key=lambda found: -len(found.axis.values))
    names = file_names(videos.images)
    for index, image_id in enumerate(videos.images):
        rows = np.flatnonzero(videos.image == index)
        sheet = _sheet(videos, axes, image_id, rows)
        read = {place: _clip(root / name, len(sheet.columns)) for place, name in sheet.files.items()}
        clips = {place: clip for place, clip in read.items() if clip is not None}
        with filled(folder) as here:
            here.mkdir(parents=True, exist_ok=True)
            _write(here / f"{names[index]}.png", _still(sheet, clips))
            _write(here / f"{names[index]}.gif", _moving(sheet, clips))
        yield folder / f"{names[index]}.png"


def file_names(image_ids: Sequence[str]) -> list[str]:
    """Return a name for each picture that is safe on every file system, and unique even where case doesn't count."""
    folded = Counter(image_id.casefold() for image_id in image_ids)
    names = []
    for image_id in image_ids:
        is_safe = _SAFE.fullmatch(image_id) and not _RESERVED.fullmatch(image_id) and not image_id.endswith(".")
        if is_safe and folded[image_id.casefold()] == 1:
            names.append(image_id)
            continue
        digest = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", image_id).strip("-_")[:40]
        names.append(f"{readable}-{digest}" if readable else digest)
    return names


def _sheet(videos: Videos, axes: Sequence[AxisCodes], image_id: str, rows: NDArray[np.int64]) -> Sheet:
    across, others = (axes[0], axes[1:]) if axes else (None, [])
    column = across.codes[rows] if across else np.zeros(len(rows), np.int64)
    lines = [tuple(int(found.codes[row]) for found in others) for row in rows]
    columns, kept_lines = _some(sorted(set(column.tolist()))), _some(sorted(set(lines)))
    files: dict[tuple[int, int], str] = {}
    for row, at, line in zip(rows, column.tolist(), lines, strict=True):
        if at in columns and line in kept_lines:
            place = (kept_lines.index(line), columns.index(at))
            files.setdefault(place, videos.words("file_name", int(row)))
    return Sheet(
        image_id,
        across.axis.name if across else "",
        ", ".join(found.axis.name for found in others),
        tuple(wording.shown(across.axis.values[i], across.axis) for i in columns) if across else ("",),
        tuple(
            ", ".join(wording.shown(f.axis.values[i], f.axis) for f, i in zip(others, line, strict=True))
            for line in kept_lines
        ),
        files,
        len(rows) - len(files),
    )


def _some(steps: list[T]) -> list[T]:
    """Return evenly some of many steps, the first and the last among them."""
    if len(steps) <= MOST_STEPS:
        return steps
    return [steps[i] for i in np.linspace(0, len(steps) - 1, MOST_STEPS).round().astype(int)]


@dataclass(frozen=True)
class _Clip:
    frames: list[Image.Image]
    length_s: float


def _clip(path: Path, num_columns: int) -> _Clip | None:
    """Return a clip's frames as small as the sheet needs them; None where it is missing or can't be read."""
    if not path.is_file():
        return None
    try:
        frames, fps = read_frames(path)
    except OSError:
        return None
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(MOST_GIF_FRAMES, len(frames))).round().astype(int))
    images = [Image.fromarray(frames[i]) for i in chosen]
    for image in images:
        image.thumbnail((GIF_PX[0] // num_columns, GIF_PX[1]), reducing_gap=2.0)
    return _Clip(images, len(frames) / max(fps, 1.0))


# --- drawing ----------------------------------------------------------------------------------------------

Clips = dict[tuple[int, int], _Clip]


class _Layout:
    """Where the tiles of a sheet stand, each of some frames side by side."""

    def __init__(self, sheet: Sheet, clips: Clips, limit: tuple[int, int], num_frames: int) -> None:
        width, height = next((clip.frames[0].size for clip in clips.values()), (320, 180))
        num_columns, num_rows = len(sheet.columns), len(sheet.rows)
        self.label = max((int(_font().getlength(shortened(r, 24))) + 10 for r in sheet.rows if r), default=0)
        by_width = ((limit[0] - self.label) / num_columns - _GAP) / num_frames
        by_height = ((limit[1] - _HEAD) / num_rows - _GAP) * width / height
        wide = max(int(min(width, by_width, by_height)), LEAST_TILE_PX)
        self.tile = (wide, max(round(wide * height / width), 1))
        self.num_frames = num_frames
        self.step = (wide * num_frames + _GAP, self.tile[1] + _GAP)
        self.size = (
            max(self.label + num_columns * self.step[0] + _GAP, 320),
            _HEAD + num_rows * self.step[1] + _GAP,
        )

    def place(self, row: int, column: int, frame: int = 0) -> tuple[int, int]:
        """Return the left upper corner of a frame."""
        return self.label + _GAP + column * self.step[0] + frame * self.tile[0], _HEAD + row * self.step[1]


@functools.lru_cache(maxsize=4)
def _font(size: int = _FONT) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _ground(sheet: Sheet, clips: Clips, layout: _Layout, note: str) -> Image.Image:
    """Return a sheet with its labels and empty tiles."""
    image = Image.new("RGB", layout.size, _GROUND)
    draw = ImageDraw.Draw(image)
    room = (layout.size[0] - 2 * _GAP) // 9
    what = [f"{sheet.across} across" if sheet.across else "", f"{sheet.down} down" if sheet.down else "", note]
    if sheet.num_left_out:
        what.append(f"{sheet.num_left_out} more clips are not shown")
    name = "".join(c if c.isprintable() else "�" for c in sheet.image_id)
    draw.text((_GAP, 4), shortened(name, room), fill=_INK, font=_font())
    draw.text((_GAP, 22), shortened("; ".join(w for w in what if w), room * 9 // 7), fill=_SOFT, font=_font(12))
    for column, text in enumerate(sheet.columns):
        left = layout.place(0, column)[0]
        short = shortened(text, max(3, layout.step[0] // 9))
        draw.text((left + layout.step[0] // 2, 41), short, fill=_INK, font=_font(13), anchor="ma")
    for row, text in enumerate(sheet.rows):
        top = layout.place(row, 0)[1] + layout.tile[1] // 2
        draw.text((layout.label, top), shortened(text, 24), fill=_INK, font=_font(13), anchor="rm")
        for column in range(len(sheet.columns)):
            left, up = layout.place(row, column)
            draw.rectangle((left, up, left + layout.tile[0] * layout.num_frames - 1, up + layout.tile[1] - 1), _HOLE)
            if (row, column) not in clips and layout.tile[0] >= 64:
                why = "unreadable" if (row, column) in sheet.files else "not made"
                draw.text((left + 6, up + 4), why, fill=_SOFT, font=_font(12))
    return image


def _still(sheet: Sheet, clips: Clips) -> bytes:
    """Return the PNG: first, middle and last frame of every clip."""
    longest = max((len(clip.frames) for clip in clips.values()), default=1)
    shown = min(3, longest)
    note = {1: "", 2: "first and last frame"}.get(shown, "first, middle and last frame")
    layout = _Layout(sheet, clips, SHEET_PX, shown)
    image = _ground(sheet, clips, layout, note)
    for (row, column), clip in clips.items():
        for i in range(shown):
            frame = clip.frames[round(i * (len(clip.frames) - 1) / max(shown - 1, 1))]
            image.paste(frame.resize(layout.tile, Image.Resampling.LANCZOS), layout.place(row, column, i))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _moving(sheet: Sheet, clips: Clips) -> bytes:
    """Return the GIF: all clips in step."""
    layout = _Layout(sheet, clips, GIF_PX, 1)
    ground = _ground(sheet, clips, layout, "")
    count = max((len(clip.frames) for clip in clips.values()), default=1)
    pages = []
    for i in range(count):
        page = ground.copy()
        for (row, column), clip in clips.items():
            frame = clip.frames[round(i * (len(clip.frames) - 1) / max(count - 1, 1))]
            page.paste(frame.resize(layout.tile, Image.Resampling.LANCZOS), layout.place(row, column))
        pages.append(page)
    palette = pages[len(pages) // 2].quantize(255, method=Image.Quantize.MEDIANCUT)
    small = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    buffer = io.BytesIO()
    length_s = max((clip.length_s for clip in clips.values()), default=1.0)
    duration_ms = max(round(100 * length_s / count) * 10, 40)
    small[0].save(buffer, "GIF", save_all=True, append_images=small[1:], duration=duration_ms, loop=0)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    move(temporary, path)
