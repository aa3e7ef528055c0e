"""The command and the script of every clip, as `show` prints them: each text once, with slots that the page fills.

A template is a list of pieces: text at even places, the name of a slot at odd ones. What steers the text (model,
sampler, versions, threads) makes another template; numbers, ids and the lines that open the picture are slots.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from svd_batch import show
from svd_batch.errors import ItemError, UserError
from svd_batch.images import read_bytes
from svd_batch.manifest import read_manifest
from svd_batch.records import CELL_FIELDS, ImageRecord, VideoRecord, from_dict
from svd_batch.report.columns import compact
from svd_batch.report.folders import OUTPUT, Folder

MOST_PICTURES = 2000
"""So many pictures are looked at; each costs a millisecond or two."""
SLOTS = ("video_id", "short_id", "seed", *(name for name in CELL_FIELDS if name != "sampler"))
_OPENING = "opening"
_MARK = "__svd_batch_slot_{}__"
"""Of letters and _ alone: no shell, no Hydra and no Python quotes it, as none quotes the digits that it stands for."""
_MARKED = re.compile(_MARK.format("(" + "|".join((*SLOTS, _OPENING)) + ")"))
_NO_PICTURE = "The picture is in none of the manifests of the folder's runs any more."
_TOO_MANY = "Too many pictures for a script of each: svd-batch show prints it."


class _Slot:
    """Stands for a number in a record; written as a mark that no quoting changes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return _MARK.format(self.name)


class _SlotId(str):
    """Stands for a video_id, of which `show` also takes the first eight digits."""

    def __getitem__(self, key: Any) -> str:
        return _MARK.format("short_id")


@dataclass
class Recipes:
    """What the page needs to write any clip's command and script."""

    templates: list[list[str]] = field(default_factory=list)
    command: list[int | None] = field(default_factory=list)
    """For each clip its template."""
    script: list[int | None] = field(default_factory=list)
    openings: list[str] = field(default_factory=list)
    opening: list[int | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Why there is no script."""
    note: list[int | None] = field(default_factory=list)

    def columns(self, rows: pa.Table, pictures: Sequence[int]) -> dict[str, Any]:
        """Return everything as JSON, with the slots' values as Python writes them."""
        chosen = {name: compact(getattr(self, name), pictures) for name in ("command", "script", "opening", "note")}
        names = [name for name in SLOTS if name in rows.column_names and name != "video_id"]
        slots = {name: compact([repr(v) for v in rows[name].to_pylist()], pictures) for name in names}
        texts = {"templates": self.templates, "openings": self.openings, "notes": self.notes}
        return {**texts, **chosen, "slots": slots}


def recipes(folders: Sequence[Folder], rows: pa.Table) -> Recipes:
    """Return the recipes of some rows of the folders' videos."""
    found = Recipes()
    known: dict[Any, int] = {}
    sources = {folder.name: _Source(folder, set(rows["image_id"].to_pylist())) for folder in folders}
    steering = _steering_names(rows)
    has_path = "image_path" in rows.column_names
    for row in rows.select([OUTPUT, "image_id", *(["image_path"] if has_path else []), *steering]).to_pylist():
        source = sources[row[OUTPUT]]
        row["image_path"] = "://" if show.is_url(row.get("image_path")) else None
        key = (row[OUTPUT], row["image_path"], *(row[name] for name in steering))
        opening, imports, note = source.opening(row["image_id"])
        for name, chosen, extra in (("command", found.command, None), ("script", found.script, imports)):
            if source.settings is None or (name == "script" and opening is None):
                chosen.append(None)
                continue
            if (key, name, extra) not in known:
                known[key, name, extra] = len(found.templates)
                found.templates.append(source.template(row, name, extra))
            chosen.append(known[key, name, extra])
        found.opening.append(_place(found.openings, opening, known))
        found.note.append(_place(found.notes, note, known))
    return found


def _place(texts: list[str], text: str | None, known: dict[Any, int]) -> int | None:
    if text is None:
        return None
    if (text,) not in known:
        known[text,] = len(texts)
        texts.append(text)
    return known[text,]


def _steering_names(rows: pa.Table) -> list[str]:
    """Return the columns whose values steer a text beyond filling slots."""
    own = {f.name for f in dataclasses.fields(VideoRecord)}
    per_video = {*SLOTS, "file_name", "image_id", "image_path", "image_sha256", "replicate", "num_bytes", "created_at"}
    per_video |= {"started_at", "host"}
    timed = {"video_sha256", "peak_memory_bytes", "batch_size", "quality", "memory_profile", "fingerprint", "metrics"}
    # an interval or band of guidance is a slot, and whether there is one is in `approximations`
    return [n for n in rows.column_names if n in own - per_video - timed and not n.endswith("_s")]


class _Source:
    """What a folder's run left: settings and, by their ids, the pictures of its manifests."""

    def __init__(self, folder: Folder, wanted: set[str]) -> None:
        self._folder = folder
        try:
            run = folder.store.read_run()
        except UserError:
            run = {}
        settings = run.get("settings") or {}
        self.manifests = tuple(run.get("manifest") or ())
        self.settings: Mapping[str, Any] | None = settings if "fit" in settings and self.manifests else None
        self._images = dict(_images(self.manifests, wanted)) if self.settings else {}
        self._openings: dict[str, tuple[str | None, frozenset[str], str | None]] = {}

    def opening(self, image_id: str) -> tuple[str | None, frozenset[str], str | None]:
        """Return the lines that open a picture, what they import, and where there are none the reason."""
        if image_id not in self._openings:
            self._openings[image_id] = self._open(image_id)
        return self._openings[image_id]

    def _open(self, image_id: str) -> tuple[str | None, frozenset[str], str | None]:
        image = self._images.get(image_id)
        if image is None:
            return None, frozenset(), _NO_PICTURE
        if len(self._openings) >= MOST_PICTURES:
            return None, frozenset(), _TOO_MANY
        try:
            text = "\n".join(_lines(image))
        except (ItemError, OSError, ValueError, pa.ArrowException) as error:
            return None, frozenset(), f"The picture can't be opened any more: {error}"
        return text, show.imported(text), None

    def template(self, row: Mapping[str, Any], name: str, imports: frozenset[str] | None) -> list[str]:
        """Return the command's or the script's pieces for a row."""
        fixed = dict(row, file_name="", image_sha256="", num_bytes=0, created_at="")
        slots: dict[str, Any] = {name: _Slot(name) for name in SLOTS} | {"video_id": _SlotId(_MARK.format("video_id"))}
        missing = {f.name: 0 for f in dataclasses.fields(VideoRecord) if f.default is dataclasses.MISSING}
        missing.pop("metrics", None)
        record = from_dict(VideoRecord, {**missing, **fixed, **slots})
        shown = show.Shown(self._folder.store, record, self.settings or {}, self.manifests)
        text = show.command(shown) if name == "command" else show.script_text(shown, _MARK.format(_OPENING), imports)
        return _MARKED.split(text)


def _images(manifests: Sequence[str], wanted: set[str]) -> Iterator[tuple[str, ImageRecord]]:
    """Yield the wanted pictures; of two manifests with the same one the first given counts."""
    for manifest in reversed(manifests):
        try:
            images = read_manifest([manifest], None).images
        except UserError:
            continue
        yield from ((image.image_id, image) for image in images if image.image_id in wanted)


def _lines(image: ImageRecord) -> Iterator[str]:
    """Yield what `show` would; only the picture's header is read where it is a file."""
    if show.is_remote(image):
        yield from show.opening_lines(image, None)
        return
    source = io.BytesIO(read_bytes(image)) if image.source_row is not None else Path(image.source)
    with Image.open(source) as picture:
        yield from show.opening_lines(image, picture)
