"""What travels to a Ray cluster: svd_batch itself and the files of a working folder, as one zip archive.

The archive is the same to the byte for the same files, so that Ray, which names it by its hash, uploads it once.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import svd_batch
from svd_batch.console import size
from svd_batch.errors import UserError

LIMIT_BYTES = 100 * 1024**2
"""What Ray's job server takes in one request; its own limit for packages, 500 MiB, holds for `ray.init` alone.

Source: DASHBOARD_CLIENT_MAX_SIZE in ray/_private/ray_constants.py
"""

_MOST_BYTES, _MOST_FILES = 20 * LIMIT_BYTES, 100_000
"""More than this isn't even tried: no compression makes it small enough."""

_LEFT_OUT = ("__pycache__", "node_modules", "outputs", "multirun", "*.pyc")
_MARKS = ("pyvenv.cfg", "conda-meta", ".svd_batch")
"""A folder that holds one of these is a Python environment or the output of a run."""


@dataclass(frozen=True)
class PackedFile:
    """A file of the archive: its name there, where it is now, and its size."""

    name: str
    path: Path
    num_bytes: int


def collect(working_dir: Path | None, exclude: Sequence[str], conf: Path) -> list[PackedFile]:
    """Return the files to send, by name: svd_batch with its configuration, and those of the working folder.

    Of that folder these stay here: what `exclude` names (patterns of names, or of paths below the folder), hidden files
    and folders, Python environments, outputs of runs, caches, and links that lead out of it.

    Raises: UserError where there is far too much to send.
    """
    package = Path(svd_batch.__file__).parent
    files = [*_walk(package, "svd_batch/", ("conf",)), *_walk(conf, "svd_batch/conf/")]
    if working_dir is None:
        return sorted(files, key=lambda f: f.name)
    if working_dir in (Path.home(), Path("/")):
        raise UserError(
            f"cluster.working_dir: {working_dir} is too much to send; give the folder of this work, or null"
        )
    total = 0
    for file in _walk(working_dir, "", exclude):
        if file.name.startswith("svd_batch/"):  # as in a checkout; what runs here is what travels
            continue
        files.append(file)
        total += file.num_bytes
        if total > _MOST_BYTES or len(files) > _MOST_FILES:
            raise _too_large(working_dir, files, f"more than {size(total)} in {len(files)} files")
    return sorted(files, key=lambda f: f.name)


def _walk(folder: Path, prefix: str, exclude: Sequence[str] = ()) -> Iterator[PackedFile]:
    root = folder.resolve()
    for place, folders, names in os.walk(root):
        below = Path(place).relative_to(root)
        folders[:] = [n for n in folders if not _stays(below / n, exclude) and not _is_marked(Path(place, n))]
        for name in names:
            path = Path(place, name)
            if _stays(below / name, exclude) or not path.resolve().is_relative_to(root) or not path.is_file():
                continue
            yield PackedFile(prefix + (below / name).as_posix(), path, path.stat().st_size)


def _stays(below: Path, exclude: Sequence[str]) -> bool:
    if below.name.startswith(".") or any(fnmatch(below.name, pattern) for pattern in _LEFT_OUT):
        return True
    return any(fnmatch(below.as_posix(), p.strip("/")) or ("/" not in p and fnmatch(below.name, p)) for p in exclude)


def _is_marked(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in _MARKS)


def write_zip(files: Sequence[PackedFile], archive: Path, working_dir: Path | None) -> int:
    """Write the archive and return its size.

    Raises: UserError when Ray's job server would refuse it.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for file in files:
            entry = zipfile.ZipInfo(file.name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = (0o755 if os.access(file.path, os.X_OK) else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with target.open(entry, "w") as packed, file.path.open("rb") as source:
                while part := source.read(1 << 20):
                    packed.write(part)
            if target.fp is not None and target.fp.tell() > LIMIT_BYTES:
                raise _too_large(working_dir, files, size(sum(f.num_bytes for f in files)))
    return archive.stat().st_size


def largest(files: Sequence[PackedFile], count: int = 5) -> list[tuple[str, int]]:
    """Return the largest (file or folder at the top of the archive, bytes), largest first."""
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.name.partition("/")[0]] += file.num_bytes
    return sizes.most_common(count)


def _too_large(working_dir: Path | None, files: Sequence[PackedFile], amount: str) -> UserError:
    parts = [(name, num_bytes) for name, num_bytes in largest(files, 4) if name != "svd_batch"][:3]
    named = ", ".join(f"{name} ({size(num_bytes)})" for name, num_bytes in parts)
    return UserError(
        f"cluster.working_dir: {working_dir} holds {amount} and Ray's job server takes {size(LIMIT_BYTES)} packed; the "
        f"largest are {named}. Leave some out, as with cluster.exclude=[{parts[0][0]}], and put what the job reads "
        "where the cluster can reach it"
    )
