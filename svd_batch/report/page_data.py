"""What the page's scripts read: clips by columns, pictures, axes, measures, recipes. docs/report.md has its size."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from svd_batch import ids
from svd_batch.records import CELL_FIELDS
from svd_batch.report.axes import Axis
from svd_batch.report.columns import Column, column, compact, rounded
from svd_batch.report.extremes import Extremes, Flagged
from svd_batch.report.folders import OUTPUT, Sweep
from svd_batch.report.measures import Measure
from svd_batch.report.posters import MOST_OF_THEIR_OWN, MOST_POSTERS, make_posters
from svd_batch.report.recipes import recipes
from svd_batch.report.selection import Selection

_LEFT_OUT = {"video_sha256", "fingerprint"}
"""Of no use to a person who looks, and long."""
_HANDLED = {"file_name", "video_id", "image_id", OUTPUT}
_TYPES = {"mp4": "video/mp4", "gif": "image/gif", "webp": "image/webp", "mkv": "video/x-matroska"}


def page_data(
    sweep: Sweep,
    selection: Selection,
    axes: Sequence[Axis],
    measures: Sequence[Measure],
    page: Path,
    *,
    embed: bool = False,
) -> dict[str, Any]:
    """Return the JSON of the page; makes the posters that are missing."""
    rows = sweep.table.take(pa.array(selection.rows, pa.int64()))
    pictures: list[int] = selection.picture.tolist()
    exact = {*CELL_FIELDS, "seed"}
    names = [name for name in rows.column_names if name not in _LEFT_OUT | _HANDLED]
    columns = {name: column(rows[name], pictures, exact=name in exact) for name in names}
    texts = rows["video_id"].to_pylist()
    return {
        "num": rows.num_rows,
        "folders": [{"name": f.name, "href": f.href(page)} for f in sweep.folders],
        "axes": [_axis(axis) for axis in axes],
        "places": {axis.name: _places(rows, axis, pictures) for axis in axes},
        "measures": [_measure(measure) for measure in measures],
        "pictures": _pictures(rows, selection),
        "video_id": texts,
        "picture": compact(pictures, list(range(len(pictures)))),
        "folder": compact(_folder_places(sweep, rows), pictures),
        "columns": columns,
        **_files(sweep, rows, pictures, page, embed=embed),
        "recipes": recipes(sweep.folders, rows).columns(rows, pictures),
    }


def _axis(axis: Axis) -> dict[str, Any]:
    """Return an axis; `order` is its field's place in a cell, by which the analysis orders cells."""
    fields = (OUTPUT, *CELL_FIELDS)
    order = fields.index(axis.name) if axis.name in fields else len(fields)
    texts = [_text(value) for value in axis.values]
    if axis.also:
        beside = zip(*axis.also.values(), strict=True)
        texts = [f"{text} ({', '.join(map(_text, one))})" for text, one in zip(texts, beside, strict=True)]
    return {"name": axis.name, "label": axis.label, "values": list(axis.values), "texts": texts, "order": order}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "name": measure.name,
        "title": measure.title,
        "unit": measure.unit,
        "better": measure.better,
        "isFlag": measure.is_flag,
        "isMetric": measure.is_metric,
    }


def _places(rows: pa.Table, axis: Axis, pictures: Sequence[int]) -> Column:
    """Return each clip's position on an axis."""
    position = {value: i for i, value in enumerate(axis.values)}
    return compact([position[value] for value in rows[axis.name].to_pylist()], pictures)


def _folder_places(sweep: Sweep, rows: pa.Table) -> list[int]:
    position = {folder.name: i for i, folder in enumerate(sweep.folders)}
    return [position[name] for name in rows[OUTPUT].to_pylist()]


def _pictures(rows: pa.Table, selection: Selection) -> dict[str, Any]:
    """Return the pictures' ids and captions: the manifest's `caption` where it carries one, else the path."""
    captions: dict[int, str] = {}
    named = rows["caption"].to_pylist() if "caption" in rows.column_names else [None] * rows.num_rows
    paths = rows["image_path"].to_pylist() if "image_path" in rows.column_names else [None] * rows.num_rows
    for picture, caption, path in zip(selection.picture.tolist(), named, paths, strict=True):
        captions.setdefault(picture, str(caption or path or ""))
    return {
        "id": list(selection.pictures),
        "caption": [captions.get(i, "") for i in range(len(selection.pictures))],
        "numInGrid": selection.num_in_grid,
        "num": selection.num_pictures,
    }


def _files(sweep: Sweep, rows: pa.Table, pictures: Sequence[int], page: Path, *, embed: bool) -> dict[str, Any]:
    """Return where the clips are, which are missing, which have posters, and with `embed` the files themselves."""
    names: list[str] = rows["file_name"].to_pylist()
    suffixes = [name.rpartition(".")[2] for name in names]
    regular = [
        ids.video_path(video_id, suffix) == name
        for video_id, suffix, name in zip(rows["video_id"].to_pylist(), suffixes, names, strict=True)
    ]
    roots = {folder.name: folder.store.root for folder in sweep.folders}
    paths = [roots[name] / file for name, file in zip(rows[OUTPUT].to_pylist(), names, strict=True)]
    there = _there(sweep, rows[OUTPUT].to_pylist(), names)
    found: dict[str, Any] = {
        "suffix": compact(suffixes, pictures),
        "file": {str(i): name for i, name in enumerate(names) if not regular[i]},
        "missing": [i for i, found in enumerate(there) if not found],
    }
    if embed:
        found["embedded"] = {str(i): _data_uri(path) for i, path in enumerate(paths) if there[i]}
    else:
        found["signed"] = _signed(sweep, page, rows[OUTPUT].to_pylist(), names, there)
        found["poster"] = compact(_posters(sweep, rows, pictures, there), pictures)
    return found


def _there(sweep: Sweep, folders: Sequence[str], names: Sequence[str]) -> list[bool]:
    """Return which clips have their files, folder by folder."""
    there = [False] * len(names)
    for folder in sweep.folders:
        mine = [i for i, name in enumerate(folders) if name == folder.name]
        for i, found in zip(mine, folder.files([names[i] for i in mine]), strict=True):
            there[i] = found
    return there


def _signed(
    sweep: Sweep, page: Path, folders: Sequence[str], names: Sequence[str], there: Sequence[bool]
) -> dict[str, str]:
    """Return the addresses of clips in stores that the page isn't in, by the clips' numbers."""
    away = {folder.name: folder for folder in sweep.folders if folder.store.is_remote and not folder.is_around(page)}
    return {str(i): away[folders[i]].signed(names[i]) for i in range(len(names)) if folders[i] in away and there[i]}


def _data_uri(path: Path) -> str:
    kind = _TYPES.get(path.suffix.lstrip("."), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _posters(sweep: Sweep, rows: pa.Table, pictures: Sequence[int], there: Sequence[bool]) -> list[int | None]:
    """Return for each clip the clip whose poster it shows: its own, or in a large page its picture's first."""
    folders, names = rows[OUTPUT].to_pylist(), rows["file_name"].to_pylist()
    shared = sum(there) > MOST_OF_THEIR_OWN
    owners: dict[Any, int] = {}
    for i, (folder, picture) in enumerate(zip(folders, pictures, strict=True)):
        if there[i] and len(owners) < MOST_POSTERS:
            owners.setdefault((folder, picture) if shared else i, i)
    made: set[int] = set()
    for folder in sweep.folders:
        mine = [i for i in owners.values() if folders[i] == folder.name]
        found = make_posters(folder.store, [names[i] for i in mine])
        made |= {i for i, has in zip(mine, found, strict=True) if has}
    keys = zip(folders, pictures, strict=True) if shared else range(rows.num_rows)
    return [owner if (owner := owners.get(key)) in made else None for key in keys]


def extremes_data(found: Sequence[Extremes], flags: Sequence[Flagged], selection: Selection) -> dict[str, Any]:
    """Return what stands out, with the page's own numbers of the clips."""
    place = {row: i for i, row in enumerate(np.asarray(selection.rows).tolist())}
    return {
        "measures": [
            {
                "name": one.measure.name,
                "low": [place[row] for row in one.low],
                "high": [place[row] for row in one.high],
                "counts": one.counts,
                "ends": [rounded(end) for end in one.ends],
                "median": rounded(one.median),
                "numNull": one.num_null,
            }
            for one in found
        ],
        "flags": [
            {
                "title": flag.measure.title,
                "count": flag.count,
                "num": flag.num_measured,
                "clips": [place[row] for row in flag.rows],
            }
            for flag in flags
        ],
    }
