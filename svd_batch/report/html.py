"""Templates, styles and scripts to one HTML text that needs nothing else and lets nothing else in.

Styles and scripts are files of static/, put into the page and named in its Content-Security-Policy by their hashes;
so nothing that a manifest smuggles in can run. Data travel as JSON in which no tag can begin.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from svd_batch.report.typeset import typeset

STYLES = ("page.css", "answer.css", "grid.css", "windows.css")
SCRIPTS = (
    "data.js",
    "state.js",
    "colours.js",
    "clock.js",
    "clips.js",
    "grid.js",
    "controls.js",
    "windows.js",
    "recipe.js",
    "large.js",
    "compare.js",
    "lookup.js",
    "extremes.js",
    "figures.js",
    "keys.js",
    "main.js",
)
"""In order; they share one scope."""


def render(data: Mapping[str, Any], **values: Any) -> str:
    """Return the page; `data` is what its scripts read, `values` what its templates show."""
    style = _joined(STYLES)
    script = "(() => {\n" + '"use strict";\n' + _joined(SCRIPTS) + "})();\n"
    policy = _policy(style, script, data.get("signed", {}).values())
    return (
        environment()
        .get_template("page.html")
        .render(policy=policy, style=Markup(style), script=Markup(script), data=script_json(data), **values)
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Return the templates, which are compiled once a process: a page that is watched is made again and again."""
    loader = jinja2.PackageLoader("svd_batch.report", "templates")
    found = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    set_texts = {name: _set(write) for name, write in (("duration", duration), ("size", size), ("moment", moment))}
    found.filters |= {"number": number, "typeset": typeset, **set_texts}
    return found


def _set(write: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return what writes a value as the page shows it."""
    return lambda value: typeset(write(value))


def _joined(names: tuple[str, ...]) -> str:
    folder = resources.files("svd_batch.report") / "static"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _policy(style: str, script: str, addresses: Iterable[str]) -> str:
    """Return the Content-Security-Policy: our style and script, files beside the page, data in it, signed links."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    origins = {"://".join(urlsplit(address)[:2]) for address in addresses}
    files = " ".join(["'self' file: data:", *sorted(origins)])
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        f"img-src {files}; media-src {files}; base-uri 'none'; form-action 'none'"
    )


def script_json(data: Any) -> Markup:
    """Return JSON that may stand in a script element: no character in it can begin or end a tag or a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    for character, escape in escapes.items():
        text = text.replace(character, escape)
    return Markup(text.encode("utf-8", "replace").decode())


def number(value: Any) -> str:
    """Return a value as people write it."""
    return typeset(f"{value:.4g}") if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits them."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(num_bytes: float) -> str:
    """Return bytes in the unit that suits them."""
    for unit in ("bytes", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def moment(ms: int) -> str:
    """Return a moment in UTC."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
