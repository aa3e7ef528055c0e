"""Videos laid out for VBench's own videos (`--mode=custom_input`), for text alone and for image-to-video.

Source: https://github.com/Vchitect/VBench/blob/45e79ec14e69a2187202c675d2dbce1a71843d53/vbench/__init__.py, where
`build_full_info_json` lists one flat folder of .mp4 and .gif, takes `NAME-3.mp4` for video 3 of NAME, looks its picture
up as NAME.png, and its prompt in a JSON object from file names to prompts that must have every video.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from PIL import Image

from svd_batch.config import Fit
from svd_batch.errors import ItemError, UserError
from svd_batch.export.clips import as_mp4
from svd_batch.export.folder import Folder
from svd_batch.export.settings import ExportSettings
from svd_batch.export.values import inert
from svd_batch.images import fit_image, open_image, read_bytes
from svd_batch.locations import is_remote, local_copy
from svd_batch.manifest import read_manifest

DIMENSIONS = (
    "subject_consistency background_consistency motion_smoothness dynamic_degree aesthetic_quality imaging_quality"
)
"""What VBench takes of videos outside its own prompts."""
MARK = "Made by svd_batch for VBench."
RATIOS = {"1-1": 1.0, "8-5": 1.6, "7-4": 1.75, "16-9": 16 / 9}


def write_vbench(folder: Folder, settings: ExportSettings, place: Path) -> Iterator[str]:
    """Write PLACE/videos, images, prompts.json, videos.csv and README.md; an earlier export there is replaced.

    Raises: UserError for a place with other things, a missing video or an unknown column of captions.
    """
    rows = list(folder.rows())
    captions = _captions(rows, settings.captions)
    missing = [row["file_name"] for row in rows if not (folder.root / row["file_name"]).is_file()]
    if missing:
        raise UserError(f"OUTPUT: {len(missing)} videos are missing, {missing[0]} the first; see svd-batch verify")
    _clear(place)
    names = video_names(rows)
    (place / "videos").mkdir(parents=True, exist_ok=True)
    for row, name in zip(rows, names, strict=True):
        _link(folder.root / row["file_name"], place / "videos" / name)
    pictures, reason = _write_pictures(folder, rows, names, place / "images")
    if captions:
        prompts = dict(zip(names, captions, strict=True))
        (place / "prompts.json").write_text(json.dumps(prompts, ensure_ascii=False, indent=2), encoding="utf-8")
    _write_list(folder, rows, names, place / "videos.csv")
    (place / "README.md").write_text(_readme(folder.name, rows, bool(captions), pictures), encoding="utf-8")
    yield f"{place}: {len(rows)} videos{f', {pictures} pictures' if pictures else ''}; README.md has the commands"
    if reason:
        yield f"no pictures for VBench-I2V: {reason}"
    if not captions:
        yield "no prompts.json: not every picture has a caption, and the dimensions that take own videos need none"


def video_names(rows: list[dict[str, Any]]) -> list[str]:
    """Return a file name for each video: its picture's name, then -0, -1, … in the table's order."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for row in rows:
        if row["image_id"] not in stems:
            wanted = _stem(str(row["image_path"] or row["image_id"]))
            number = next(n for n in range(len(rows)) if _numbered(wanted, n).lower() not in taken)
            stems[row["image_id"]] = _numbered(wanted, number)
            taken.add(stems[row["image_id"]].lower())
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        stem, suffix = stems[row["image_id"]], Path(row["file_name"]).suffix
        names.append(f"{stem}-{seen[stem]}{suffix if suffix in ('.mp4', '.gif') else '.mp4'}")
        seen[stem] += 1
    return names


def _numbered(stem: str, number: int) -> str:
    return f"{stem}_{number + 1}" if number else stem


def _stem(path: str) -> str:
    """Return a picture's name without what means something to a shell, to VBench or to a file system."""
    return re.sub(r"[^\w.]+", "_", Path(path.rpartition("/")[2]).stem).strip("._")[:80] or "picture"


def _captions(rows: list[dict[str, Any]], column: str | None) -> list[str]:
    """Return every video's prompt; none where a single one is missing, since VBench wants all or none."""
    if column is not None and rows and column not in rows[0]:
        raise UserError(f"--captions: the table has no column {column!r}; it has {', '.join(rows[0])}")
    captions = [row.get(column or "caption") for row in rows]
    if column is not None and not all(isinstance(c, str) and c.strip() for c in captions):
        raise UserError(f"--captions: column {column} has rows without text, and VBench wants a prompt for every video")
    return [str(c) for c in captions] if all(isinstance(c, str) and c.strip() for c in captions) else []


def _clear(place: Path) -> None:
    """Make the folder, without an earlier export of ours.

    Raises: UserError where there are other things.
    """
    readme = place / "README.md"
    ours = readme.is_file() and MARK in readme.read_text(encoding="utf-8", errors="replace")
    if place.exists() and not place.is_dir():
        raise UserError(f"-o: {place} is a file; give a folder")
    if place.is_dir() and any(place.iterdir()) and not ours:
        raise UserError(f"-o: {place} is not empty and was not made by export --to vbench; give a new folder")
    for name in ("videos", "images"):
        shutil.rmtree(place / name, ignore_errors=True)
    for name in ("prompts.json", "videos.csv"):
        (place / name).unlink(missing_ok=True)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o: {place} can't be made: {error.strerror or error}") from None


def _link(source: Path, target: Path) -> None:
    """Make a video appear under another name: a hard link, else a copy; WebP and FFV1 become mp4."""
    if source.suffix != target.suffix:
        as_mp4(source, target)
        return
    if is_remote(source):
        with local_copy(source) as copy:
            shutil.copyfile(copy, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _write_pictures(
    folder: Folder, rows: list[dict[str, Any]], names: list[str], place: Path
) -> tuple[int, str | None]:
    """Write each picture as the model saw it; return (how many, why none). VBench-I2V stops at a missing one."""
    run = folder.store.read_run()
    fit = run.get("settings", {}).get("fit")
    by_id = {row["image_id"]: (row, re.sub(r"-\d+\.\w+$", ".png", name)) for row, name in zip(rows, names, strict=True)}
    try:
        images = {i.image_id: i for i in read_manifest(run.get("manifest") or [], None).images}
        place.mkdir()
        for image_id, (row, name) in by_id.items():
            if image_id not in images:
                raise UserError(f"{image_id} is in no manifest of the folder's runs")
            picture = fit_image(open_image(read_bytes(images[image_id])), row["height"], row["width"], Fit(fit))
            Image.fromarray(picture).save(place / name)
    except (ValueError, ItemError, OSError) as error:
        shutil.rmtree(place, ignore_errors=True)
        return 0, str(error)
    return len(by_id), None


def _write_list(folder: Folder, rows: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """Write which file is which video, with its parameters: VBench's results name files."""
    kept = ("video_id", "image_id", *folder.parameters)
    columns: Mapping[str, list[Any]] = {"file": names} | {name: [row[name] for row in rows] for name in kept}
    safe = {k: [inert(v) if isinstance(v, str) else v for v in values] for k, values in columns.items()}
    pa_csv.write_csv(pa.table(safe), path)


README = """# {name} for VBench

{mark} {num_videos} videos of {num_pictures} pictures; `videos.csv` says which file has which parameters.

```bash
pip install vbench    # needs a CUDA GPU and fetches its models; then, in this folder:
vbench evaluate --videos_path videos --mode=custom_input{prompts} \\
    --dimension "{dimensions}"
```

The results' JSON has, for each dimension, the mean and then each video's own value.
"""
README_I2V = """
Against their pictures, with [VBench-I2V](https://github.com/Vchitect/VBench/tree/master/vbench2_beta_i2v):

```bash
HERE=$PWD    # this folder; then, in a checkout of VBench:
python evaluate_i2v.py --videos_path "$HERE/videos" --custom_image_folder "$HERE/images" --mode=custom_input \\
    --ratio {ratio} --dimension i2v_subject i2v_background
```
"""


def _readme(name: str, rows: list[dict[str, Any]], has_prompts: bool, pictures: int) -> str:
    text = README.format(
        name=name,
        mark=MARK,
        num_videos=len(rows),
        num_pictures=len({row["image_id"] for row in rows}),
        prompts=" --prompt_file prompts.json" if has_prompts else "",
        dimensions=DIMENSIONS,
    )
    if not pictures:
        return text
    shape = rows[0]["width"] / rows[0]["height"]
    return text + README_I2V.format(ratio=min(RATIOS, key=lambda name: abs(RATIOS[name] - shape)))
