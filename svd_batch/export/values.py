"""Single values on their way out: nothing that JSON can't hold, nothing that a spreadsheet would run."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")
"""What begins a formula somewhere; the wide ones do in spreadsheets of East Asian languages."""


def plain(value: Any) -> Any:
    """Return a value as JSON has it: NaN and infinities as None, times as ISO 8601, bytes as base64."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def to_json(value: Any) -> str:
    """Return plain JSON on one line."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def inert(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula; what is none stays as it is.

    A text that begins with = + - @, a tab or a line break, or their wide forms, spaces before it aside, gets an
    apostrophe in front; so does one that begins so behind apostrophes, so that taking one off always gives the
    original. Source: OWASP, CSV Injection.
    """
    start = text.lstrip("'").lstrip(" ")
    return f"'{text}" if start[:1] in FORMULA_STARTS and start else text
