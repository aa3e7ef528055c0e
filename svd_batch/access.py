"""What a manifest may reach: which paths and addresses, and how much of each. Opens nothing.

Knows the rules of docs/hostile_input.md and nothing of manifests, pictures or the network.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

MAX_PATH_CHARACTERS = 8192
"""Longer than any file system's paths, and than the signed addresses of the object stores."""

_URL = re.compile(r"https?://[^/?#\\@\s]+(@[^/?#\\@\s]+)?([/?#]|$)", re.IGNORECASE)
_URI_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#'\"]*@)?([^\s?#'\"<>]*)([?#][^\s'\"<>]*)?")
_TOKEN = re.compile(
    r"\b(?:hf_|api_org_|sk-|gh[pousr]_|github_pat_|glpat-|xox[a-z]-|AKIA|ASIA)[A-Za-z0-9_-]{8,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"  # a JSON web token
    r"|(?<=Bearer )[^\s'\",;]+"
)
_NAMED_SECRET = re.compile(
    r"(?i)(\b\w*(?:token|password|(?<!/etc/)passwd|secret|api_?key|access_?key(?:_?id)?|signature|credentials?)[\"']?\s*[=:]\s*[\"']?)"
    r"(?!null\b|None\b|true\b|false\b)[^\s\"',;&?}\])]+"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Access:
    """What pictures of a manifest may be read, and how much of each; `Config.access` makes it."""

    allow_urls: bool = False
    allowed_hosts: tuple[str, ...] = ()
    """`host` or `host:port`, lower case: may have private addresses."""
    allowed_roots: tuple[str, ...] = ()
    """Absolute folders, and prefixes such as s3://bucket; none allows every folder and no such store."""
    max_bytes: int = 512 * 2**20
    max_pixels: int = 178_000_000
    url_timeout_s: float = 30.0
    own_stores: tuple[str, ...] = ()
    """Prefixes such as s3://bucket of the stores that manifests lie in; their pictures may, too, without any root."""


ACCESS = Access()
"""Every local file, no address."""


def resolve(path: str, base: str, access: Access | None) -> str:
    """Return the absolute path or the address that a manifest in the folder `base` means by `path`.

    Without `access` nothing is refused, for looking up what a run has taken already.

    Raises: ValueError that says of `image_path` what is wrong with it.
    """
    if access is None:
        if "://" in base and "://" not in path and not path.startswith("/"):
            return _beside(path, base)
        return path if "://" in path else _absolute(path, base)
    if "\x00" in path:
        raise ValueError("image_path holds a NUL character")
    if len(path) > MAX_PATH_CHARACTERS:
        raise ValueError(
            f"image_path {path[:40]!r}… has {len(path)} characters; give a path or an address of at most "
            f"{MAX_PATH_CHARACTERS}, or the picture itself in image_bytes"
        )
    if "://" in path or ("://" in base and not path.startswith("/")):
        address = path if "://" in path else _beside(path, base)
        check_address(address, access)
        return address
    source = _absolute(path, base)
    if access.allowed_roots and not is_inside(_real_path(source), access):
        raise ValueError(f"image_path {short(path)!r} leads to {short(_real_path(source))!r}, {outside(access)}")
    return source


def _absolute(path: str, base: str) -> str:
    return os.path.normpath(os.path.join(base, path))  # noqa: PTH118  (a Path each would take half of the time)


def _beside(path: str, base: str) -> str:
    """Return the address that a relative path means in a manifest at an address."""
    kind, _, folder = base.partition("://")
    return f"{kind}://{posixpath.normpath(posixpath.join(folder, path))}"


def check_address(path: str, access: Access) -> None:
    """Raise ValueError unless `path` is http(s) where URLs are allowed, or lies in a store that is an allowed root."""
    scheme = path.partition("://")[0].lower()
    if scheme in ("http", "https") or re.search(r":https?$", scheme):
        if not access.allow_urls:
            raise ValueError("image_path is a URL; set allow_urls=true to load pictures from the network")
        if scheme in ("http", "https"):
            if _URL.match(path) is None or _CONTROL.search(path):
                raise ValueError(f"image_path {short(shown(path))!r} is no address; give https://host/path")
            return
    roots = access.allowed_roots or access.own_stores
    prefixes = [root.rstrip("/") + "/" for root in roots if "://" in root]
    nested = "::" in path or ".." in re.split(r"[/\\]", path)
    if not nested and path.startswith(tuple(prefixes)):
        return
    if scheme in ("file", "local"):
        raise ValueError(f"image_path {short(shown(path))!r} is a {scheme}:// URI; give a plain path")
    raise ValueError(
        f"image_path {short(shown(path))!r} is not accepted; give a path, http(s) with allow_urls=true, or an address "
        "in a store that allowed_roots names, such as s3://bucket"
    )


def own_stores(manifests: Iterable[str]) -> tuple[str, ...]:
    """Return the stores, such as s3://bucket, in which some manifests lie."""
    found = (re.match(r"(?!https?:)[A-Za-z][\w+.-]*://[^/]+", spec) for spec in manifests)
    return tuple(dict.fromkeys(match[0] for match in found if match))


def is_inside(real: str, access: Access) -> bool:
    """Return whether a local path without symlinks lies below an allowed root."""
    roots = (_real_folder(root) for root in access.allowed_roots if "://" not in root)
    return any(real.startswith(root.rstrip("/") + "/") for root in roots)


def _real_path(source: str) -> str:
    folder, name = os.path.split(source)
    real = os.path.join(_real_folder(folder), name)  # noqa: PTH118
    return os.path.realpath(real) if os.path.islink(real) else real  # noqa: PTH114


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)  # a million pictures lie in few folders


def outside(access: Access) -> str:
    """Return the end of a sentence about a path that no root allows."""
    return f"outside allowed_roots ({', '.join(access.allowed_roots)})"


def short(text: str, limit: int = 80) -> str:
    """Return a text that is no longer than `limit`, its middle left out."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 2 + 1 :]}"


def shown(text: str) -> str:
    """Return a text whose addresses have neither user, password, query nor fragment: these may hold secrets."""
    return _URI_IN_TEXT.sub(lambda m: f"{m[1]}{m[2]}{'?…' if m[3] else ''}", text) if "://" in text else text


def unsecret(text: str) -> str:
    """Return a text without what may be secret: tokens, values named as passwords or keys, parts of addresses."""
    return _NAMED_SECRET.sub(r"\1…", _TOKEN.sub("…", shown(text)))


def printable(text: str) -> str:
    """Return a text with � in place of what could steer a terminal: control characters and changes of direction."""
    return _CONTROL.sub("�", text)
