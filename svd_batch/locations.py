"""Where files are: a folder of a file system, or a store that fsspec reaches by an address such as s3://bucket/folder.

Both are paths to the rest of the package: pathlib's, or universal_pathlib's, which has the same methods and is typed
as the former here. What only one of the two can do is a function of this module. A store knows no rename and no
folders: a file comes into being whole, by one PUT, and replaces what had its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from svd_batch.errors import UserError
from svd_batch.owner import temporary_prefix

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""The extra of this package that reads addresses of a kind."""

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def location(text: str) -> Path:
    """Return the path that a person means: an address of a store as it is, else a local path with ~ spelt out.

    Raises: UserError where nothing reads such an address.
    """
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    kind = _ADDRESS.match(text)
    return Path(text).expanduser() if kind is None else _remote(text, kind[1].lower())


def _remote(text: str, kind: str) -> Path:
    try:
        from upath import UPath

        path = UPath(text.rstrip("/"), use_listings_cache=False)
        path.fs  # noqa: B018  (imports what reads such addresses)
    except ImportError:
        extra = EXTRAS.get(kind)
        how = f"pip install 'svd_batch[{extra}]'" if extra else "install the fsspec package that reads it"
        raise UserError(f"{text}: no package here reads {kind}:// addresses; {how}") from None
    except ValueError as error:
        raise UserError(f"{text}: {error}; give a path, or an address such as s3://bucket/folder") from None
    return cast("Path", path)


def is_remote(path: Path) -> bool:
    """Return whether a path is one of a store's."""
    return not isinstance(path, os.PathLike)


def scratch(path: Path) -> Path:
    """Return the folder of this machine for what is on its way to a folder of a store; it is made where it isn't there.

    The same for every process of a user, so that what a killed one left is found.
    """
    name = f"svdb-scratch-{os.getuid()}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} is not this user's own folder; remove it, or set TMPDIR")
    return folder


def has_bucket(path: Path) -> bool:
    """Return whether the bucket of a store's path is there, by listing what is at the path, or else the bucket."""
    if children(path):
        return True
    try:
        _fs(path).ls(_key(path).partition("/")[0])
    except FileNotFoundError:
        return False
    return True


def put(local: Path, path: Path) -> None:
    """Make a file of this machine a file of a store, whole; the store answers once it is durable."""
    _fs(path).put_file(str(local), _key(path))


def create(path: Path, data: bytes) -> bool:
    """Return whether a file of a store was made with these bytes by this call; False where there was one.

    An answer that got lost is asked for again by the client, and then it is our own file that is in the way: equal
    bytes are ours, which callers make unmistakable.
    """
    is_azure = EXTRAS.get(str(path).partition("://")[0]) == "azure"
    try:
        _fs(path).pipe_file(_key(path), data, **({"overwrite": False} if is_azure else {"mode": "create"}))
    except FileExistsError:
        return read_bytes(path) == data
    return True


def is_file(path: Path) -> bool:
    """Return whether a file is there.

    A store's own `is_file` says no, too, where the store refuses to answer or can't be reached; this raises its error.
    """
    if not is_remote(path):
        return path.is_file()
    try:
        return bool(_fs(path).info(_key(path))["type"] == "file")
    except FileNotFoundError:
        return False


def children(folder: Path) -> list[Path]:
    """Return what is directly in a folder; nothing where there is no such folder."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files two levels below a folder whose names end so, in no order; a store lists them in one go."""
    if is_remote(folder):
        prefix = _key(folder).rstrip("/") + "/"
        for key in _fs(folder).find(prefix, maxdepth=2):
            name = key[len(prefix) :]
            if key.endswith(suffix) and name.count("/") == 1:
                yield folder / name
        return
    try:
        shards = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for shard in shards:
        if shard.is_dir():
            with os.scandir(shard) as entries:
                yield from (folder / shard.name / entry.name for entry in entries if entry.name.endswith(suffix))


def globbed(pattern: Path) -> list[str]:
    """Return the keys of a store that a pattern with wildcards matches."""
    return [str(key) for key in _fs(pattern).glob(_key(pattern))]


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; of a store's in one request, also where there is no such file.

    Raises: FileNotFoundError.
    """
    return bytes(_fs(path).cat_file(_key(path))) if is_remote(path) else path.read_bytes()


def write_bytes(path: Path, data: bytes, *, is_durable: bool = False) -> None:
    """Write a small file; in half the system calls of Path's own, each of which waits for Python's other threads.

    `is_durable`: its bytes are on the disk when this returns; a store's are, once it has answered.
    """
    if is_remote(path):
        path.write_bytes(data)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        while data:  # a disk that becomes full takes a part first
            data = data[os.write(descriptor, data) :]
        if is_durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file where there is one; a store is asked once."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        _fs(path).rm_file(_key(path))


def read_range(path: Path, start: int, length: int) -> bytes:
    """Return some bytes of a file."""
    if is_remote(path):
        return bytes(_fs(path).cat_file(_key(path), start=start, end=start + length))
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


@contextmanager
def readable(path: Path) -> Iterator[Any]:
    """Yield what pyarrow reads a file by: a local path itself, an open file of a store."""
    if not is_remote(path):
        yield path
        return
    with path.open("rb") as file:
        yield file


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a file of this machine with the bytes of `path`: the file itself, or a copy for as long as this is open."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=temporary_prefix()) as folder:
        copy = Path(folder) / path.name
        _fs(path).get_file(_key(path), str(copy))
        yield copy


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """Yield a folder of this machine whose files are those of `folder` in the end: itself, or put into the store."""
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix=temporary_prefix()) as text:
        here = Path(text)
        yield here
        for path in sorted(here.rglob("*")):
            if path.is_file():
                put(path, folder / path.relative_to(here).as_posix())


def fetched(folder: Path, below: Path, is_wanted: Callable[[str], bool]) -> Path:
    """Return a folder below `below` with copies of a store's files, made where it isn't there; whole or not at all.

    Raises: FileNotFoundError where the store has no wanted file there.
    """
    prefix = _key(folder).rstrip("/") + "/"
    found = _fs(folder).find(prefix, detail=True)
    files = {key[len(prefix) :]: info for key, info in found.items() if is_wanted(key[len(prefix) :])}
    if not files:
        raise FileNotFoundError(str(folder))
    versions = sorted(
        (name, str(i.get("ETag") or i.get("md5Hash") or i.get("etag")), i["size"]) for name, i in files.items()
    )
    copy = below / hashlib.sha256(repr((str(folder), versions)).encode()).hexdigest()[:20]
    if copy.is_dir():
        return copy
    below.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="svdb-", dir=below) as text:
        half = Path(text) / "half"
        for name in files:
            (half / name).parent.mkdir(parents=True, exist_ok=True)
            _fs(folder).get_file(prefix + name, str(half / name))
        with suppress(OSError):  # another process was faster
            half.rename(copy)
    return copy


def signed(path: Path, seconds: int) -> str | None:
    """Return an address by which anybody may read a file for so long, None where the store can't give one."""
    try:
        return str(_fs(path).sign(_key(path), expiration=seconds))
    except NotImplementedError:
        return None


def _fs(path: Path) -> Any:
    return cast("Any", path).fs


def _key(path: Path) -> str:
    return str(cast("Any", path).path)
