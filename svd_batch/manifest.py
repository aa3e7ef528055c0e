"""Parquet manifests: reading them into validated ImageRecords, and making them from folders of pictures."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from svd_batch import ids
from svd_batch.access import ACCESS, Access, resolve, short, shown
from svd_batch.errors import ItemError, UserError, store_error
from svd_batch.image_table import ImageTable
from svd_batch.images import FORMATS, SUFFIXES, one_line, open_image, read_bytes
from svd_batch.locations import globbed, is_remote, location
from svd_batch.metrics import METRICS
from svd_batch.records import CELL_FIELDS, SCORE_COLUMNS, ImageRecord, VideoRecord
from svd_batch.sweep import CHOICES, cell_value

_PLAIN = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}

_PARQUET_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError)
"""What pyarrow raises for a file that isn't what it says."""

PICTURE_COLUMNS = ("image_path", "image_bytes", "image")
BATCH_ROWS = 1024
_OWN_COLUMNS = {*(f.name for f in fields(VideoRecord)), *SCORE_COLUMNS, *METRICS}


def bundled_manifest() -> Path:
    """Return the manifest of the four pictures that ship with the package."""
    return Path(__file__).parent / "assets" / "pictures" / "manifest.parquet"


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read whole and found valid."""

    files: tuple[Path, ...]
    images: ImageTable
    """In manifest order."""
    carried: pa.Table
    """Column image_id and every column that is carried through to metadata.parquet, one row an image."""
    renamed: tuple[tuple[str, str], ...]
    """(name in the manifest, name in metadata.parquet) of the columns that would have collided."""


def shard_of(manifest: Manifest, number: int, count: int) -> Manifest:
    """Return a manifest with the pictures of one shard of `count`, the first being 1.

    A picture's id decides where it belongs, so it stays there in a longer manifest.
    """
    digests = (hashlib.sha256(i.encode()).digest() for i in manifest.images.column("image_id").to_pylist())
    is_in = np.fromiter((int.from_bytes(d[:8], "big") % count == number - 1 for d in digests), np.bool_)
    return replace(manifest, images=manifest.images.where(is_in), carried=manifest.carried.filter(pa.array(is_in)))


def manifest_files(specs: Sequence[str]) -> tuple[Path, ...]:
    """Return the Parquet files that the specs name: files, globs, or folders of *.parquet parts.

    Raises: UserError for a spec that names nothing.
    """
    found: list[Path] = []
    for spec in specs:
        path = location(spec)
        if is_remote(path) and glob.has_magic(spec):
            matches = sorted(
                (location(f"{spec.partition('://')[0]}://{key}") for key in globbed(path)), key=natural_key
            )
            if not matches:
                raise UserError(f"manifest: nothing matches {spec}")
        elif path.is_dir():
            matches = sorted(path.glob("*.parquet"), key=natural_key)
            if not matches:
                raise UserError(f"manifest: the folder {spec} holds no *.parquet file; make one with `manifest {spec}`")
        elif path.exists():
            matches = [path]
        elif is_remote(path):
            raise UserError(f"manifest: no such file: {spec}; give a Parquet file, a glob or a folder in the store")
        else:
            matches = sorted((Path(p) for p in glob.glob(str(path), recursive=True)), key=natural_key)  # noqa: PTH207
            if not matches:
                raise UserError(
                    f"manifest: no such file: {spec}; give a Parquet file, a glob, a folder or a list of them"
                )
        for match in matches:
            try:
                file = match.resolve()
            except (OSError, RuntimeError):  # Python 3.13 raises the one, earlier ones the other
                raise UserError(f"manifest: {match} is a symlink that leads to itself; give the file") from None
            if file not in found:
                found.append(file)
    return tuple(found)


def read_manifest(specs: Sequence[str], access: Access | None = ACCESS) -> Manifest:
    """Return the valid manifest that the specs name; with None as `access` wherever its pictures may be.

    Raises: UserError naming the file, the row (counted from 0) and the column of the first thing wrong.
    """
    files = manifest_files(specs)
    images = ImageTable()
    starts: list[int] = []
    carried: list[pa.Table] = []
    renamed: dict[str, str] = {}
    for file in files:
        columns = _check_schema(file, _open_parquet(file).schema_arrow)
        ours = _consumed(columns)
        names = {c: _carried_name(c) for c in columns if c not in ours}
        counts = Counter(names.values())
        for old, new in names.items():
            while counts[new] > 1 and new != old:
                counts[new] -= 1
                new = names[old] = f"source_{new}"  # the manifest has a column source_… of its own
                counts[new] += 1
        renamed.update({old: new for old, new in names.items() if old != new})
        starts.append(len(images))
        for first_row, batch in _batches(file):
            found = _batch_records(file, first_row, batch, access)
            images.append(found)
            ids_column = pa.array([image.image_id for image in found], pa.string())
            place = {c: i for i, c in enumerate(batch.schema.names)}  # looking one name up takes time in a wide file
            arrays = [ids_column, *(_carriable(batch.column(place[c])) for c in names)]
            carried.append(pa.table(arrays, names=["image_id", *names.values()]))
    if not images:
        raise UserError(f"manifest: {', '.join(f.name for f in files)} has no rows; give at least one picture")
    repeated = images.first_repeated()
    if repeated is not None:
        later, first = repeated
        raise _twice(files[bisect_right(starts, later) - 1], images[later], images[first])
    return Manifest(files, images, _concat(carried), tuple(sorted(renamed.items())))


def _twice(file: Path, image: ImageRecord, first: ImageRecord) -> UserError:
    paths = f"{first.image_path or 'an embedded picture'} and {image.image_path or 'an embedded picture'}"
    return UserError(
        f"manifest {file.name}: image_id {image.image_id!r} is there twice ({paths}); give each row its own, in a "
        "column image_id where the same picture is meant twice"
    )


def _open_parquet(file: Path) -> pq.ParquetFile:
    if not file.is_file():  # opening a pipe or a device might never return
        raise UserError(f"manifest: {file} is not a regular file; give a Parquet file")
    try:
        return pq.ParquetFile(file.open("rb") if is_remote(file) else file)
    except _PARQUET_ERRORS as error:
        raise store_error(error) or UserError(
            f"manifest: {file} is not a readable Parquet file: {one_line(error)}"
        ) from None


def _consumed(columns: Sequence[str]) -> set[str]:
    """Return the columns that are read as ours and so not carried."""
    return {*PICTURE_COLUMNS, "image_id", "image_sha256", *CELL_FIELDS} & set(columns)


def _carried_name(column: str) -> str:
    """Return the name under which a column is carried: `source_…` where it would collide in metadata.parquet.

    `video` and names that end in `_file_name` are taken by the videofolder loader of Hugging Face datasets.
    """
    if re.search(r"(^|_)file_names?$", column):
        return f"source_{column.replace('file_name', 'file')}"
    taken = column.lower() in _OWN_COLUMNS or column == "video"  # SQL knows no case
    return f"source_{column}" if taken else column


def _check_schema(file: Path, schema: pa.Schema) -> list[str]:
    """Return the column names of a manifest file whose columns have types that can be read."""
    columns: list[str] = list(schema.names)
    twice = [c for c, count in Counter(columns).items() if count > 1]
    if twice:
        raise UserError(f"manifest {file.name}: the column {short(twice[0])} is there twice")
    if not any(c in columns for c in PICTURE_COLUMNS):
        has = short(", ".join(columns), 400) or "none"
        raise UserError(f"manifest {file.name}: no column image_path, image_bytes or image; it has {has}")
    ours = _consumed(columns)
    for name, column in zip(columns, schema, strict=True):
        kind = column.type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        accepted = _accepted_type(name, kind)
        if accepted:
            raise UserError(f"manifest {file.name}: column {name} has type {kind}; it must be {accepted}")
        if name not in ours and not _can_be_carried(column.type):
            raise UserError(
                f"manifest {file.name}: column {short(name)} has type {short(str(kind))}, which can't be carried into "
                "the table; leave it out or give it another type"
            )
    return columns


def _carriable(column: pa.Array) -> pa.Array:
    """Return a column with views made plain: Arrow can't take rows of views."""
    kind = _PLAIN.get(column.type)
    return column if kind is None else column.cast(kind)


@lru_cache(maxsize=256)
def _can_be_carried(kind: pa.DataType) -> bool:
    """Return whether Arrow can take rows of a column, which it must at the end of a run."""
    try:
        pa.nulls(0, _PLAIN.get(kind, kind)).take(pa.array([], pa.int64()))
    except (pa.ArrowException, NotImplementedError):
        return False
    return True


def _accepted_type(name: str, kind: pa.DataType) -> str | None:
    """Return what the column's type must be where `kind` is something else, or None when it is right."""
    text, binary = _is_text(kind), _is_binary(kind)
    null = pa.types.is_null(kind)
    if name in ("image_path", "image_sha256"):
        return None if text or null else "a string"
    if name == "image_id":
        return None if text or pa.types.is_integer(kind) else "a string or an integer"
    if name == "image_bytes":
        return None if binary or null else "binary"
    if name == "image":
        return None if _is_image_struct(kind) else "a struct of bytes and path, as Hugging Face datasets write it"
    if name in CHOICES:
        return None if text or null else "a string"
    if name in CELL_FIELDS:
        return None if pa.types.is_integer(kind) or pa.types.is_floating(kind) or null else "a number"
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    types = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    accepted = {"bytes": _is_binary, "path": _is_text}
    return all(name in types and (ok(types[name]) or pa.types.is_null(types[name])) for name, ok in accepted.items())


def _batches(file: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (row number of the first row, some rows) in file order."""
    row = 0
    try:
        for batch in _open_parquet(file).iter_batches(BATCH_ROWS):
            yield row, batch
            row += batch.num_rows
    except _PARQUET_ERRORS as error:
        raise store_error(error) or UserError(
            f"manifest {file.name}: can't be read past row {row}: {one_line(error)}"
        ) from None


def _batch_records(file: Path, first_row: int, batch: pa.RecordBatch, access: Access | None) -> list[ImageRecord]:
    """Return the images of some rows, each checked."""
    ours = _consumed(batch.schema.names)
    values = {}
    for column in ours:
        try:
            values[column] = batch.column(column).to_pylist()
        except UnicodeDecodeError:
            where = f"manifest {file.name}, rows {first_row} to {first_row + batch.num_rows - 1}"
            raise UserError(f"{where}: column {column} holds text that is not UTF-8") from None
    return [
        _image_record(
            f"manifest {file.name}, row {first_row + i}",
            file,
            first_row + i,
            {column: rows[i] for column, rows in values.items()},
            access,
        )
        for i in range(batch.num_rows)
    ]


def _image_record(where: str, file: Path, row: int, values: dict[str, Any], access: Access | None) -> ImageRecord:
    path, data, bytes_column = _picture(values)
    if data is None and path is None:
        present = ", ".join(c for c in PICTURE_COLUMNS if c in values)
        raise UserError(f"{where}: {present} is null or empty; give a path or the picture's bytes")
    image_id = values.get("image_id")
    if "image_id" in values and image_id is None:
        raise UserError(f"{where}: image_id is null; give every row one, or leave the column out")
    if image_id is None:
        image_id = ids.image_id_of_bytes(data) if data is not None else ids.image_id_of_path(path or "")
    if not ids.is_valid_image_id(str(image_id)):
        raise UserError(f"{where}: image_id {str(image_id)[:40]!r} is not accepted; give 1 to 512 printable characters")
    fixed = tuple(
        (name, cell_value(name, values[name], f"{where}, column {name}"))
        for name in CELL_FIELDS
        if values.get(name) is not None
    )
    return ImageRecord(
        image_id=str(image_id),
        image_path=None if path is None else shown(path),
        source=str(file) if data is not None else _resolve(where, file, path or "", access),
        source_row=row if data is not None else None,
        bytes_column=bytes_column,
        sha256=(values.get("image_sha256") or None),
        fixed=fixed,
    )


def _picture(values: dict[str, Any]) -> tuple[str | None, bytes | None, str | None]:
    """Return (path, bytes, the column of the bytes) of one row; bytes go before a path."""
    struct = values.get("image") or {}
    path = values.get("image_path") or struct.get("path") or None
    if values.get("image_bytes"):
        return path, values["image_bytes"], "image_bytes"
    if struct.get("bytes"):
        return path, struct["bytes"], "image"
    return path, None, None


def _resolve(where: str, file: Path, path: str, access: Access | None) -> str:
    """Return an absolute path or an address; relative paths count from the manifest's folder."""
    try:
        return resolve(path, str(file.parent), access)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _concat(tables: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"manifest: the parts' columns don't fit together: {one_line(error)}") from None


def natural_key(path: Path | str) -> list[Any]:
    """Return a sort key that puts img2 before img10."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)]


@dataclass(frozen=True)
class FolderScan:
    """What `manifest FOLDER` took and what it left out."""

    num_images: int
    left_out: tuple[tuple[str, str], ...]
    """(path, reason), in natural order."""


def write_manifest(folder: Path, out: Path, *, recursive: bool = True) -> FolderScan:
    """Write a manifest of the pictures in `folder` and return what it took and left out.

    Every file is opened: columns image_path (relative to the manifest where the picture lies below it, else
    absolute), image_width, image_height, image_num_bytes and image_sha256; hidden files are passed over.

    Raises: UserError when the folder is missing or has no readable picture.
    """
    if not folder.is_dir():
        raise UserError(f"manifest: no such folder: {folder}")
    paths = (p for p in (folder.rglob("*") if recursive else folder.glob("*")) if not p.is_dir())
    rows: list[dict[str, Any]] = []
    left_out: list[tuple[str, str]] = []
    base = out.resolve().parent
    for path in sorted(paths, key=lambda p: natural_key(p.relative_to(folder))):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or path.resolve() == out.resolve():
            continue
        if path.suffix.lower() not in SUFFIXES:
            left_out.append((str(relative), f"not a picture by its name ({', '.join(SUFFIXES)} are)"))
            continue
        try:
            rows.append(_folder_row(path, base))
        except (ItemError, OSError, UnicodeError) as error:
            left_out.append((os.fsencode(relative).decode(errors="replace"), one_line(error)))
    if not rows:
        raise UserError(
            f"manifest: {folder} has no readable picture ({', '.join(FORMATS)}); {len(left_out)} files left out"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), out)
    except OSError as error:
        raise UserError(f"manifest: {out} can't be written: {one_line(error)}") from None
    return FolderScan(len(rows), tuple(left_out))


def _folder_row(path: Path, base: Path) -> dict[str, Any]:
    absolute = path.absolute()
    data = read_bytes(ImageRecord(image_id="", image_path=str(path), source=str(absolute)))
    image = open_image(data)
    str(absolute).encode()  # Parquet holds UTF-8 alone
    name = absolute.relative_to(base) if absolute.is_relative_to(base) else absolute
    return {
        "image_path": str(name),
        "image_width": image.width,
        "image_height": image.height,
        "image_num_bytes": len(data),
        "image_sha256": hashlib.sha256(data).hexdigest(),
    }
