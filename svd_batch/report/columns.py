"""Table columns as compact JSON that page scripts read: what repeats is written once, floats with four digits.

A column is one of
  {"same": value}                       the same for every clip
  {"values": [...], "index": [...]}     few values
  {"values": [...], "picture": true}    one value a picture
  {"each": [...]}                       a value a clip
and may have "kind": "time" (milliseconds since 1970) or "flag".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

MOST_CHARACTERS = 500
_SAFE_INTEGER = 2**53
"""Beyond it JavaScript's numbers are not exact, so larger ones travel as text."""

Column = dict[str, Any]


def column(values: pa.ChunkedArray, pictures: Sequence[int], *, exact: bool) -> Column:
    """Return a column as JSON has it; `pictures` is each row's picture, `exact` keeps floats as they are."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        ms = values.cast(pa.timestamp("ms", kind.tz)).cast(pa.int64()).to_pylist()
        return {"kind": "time", **compact(ms, pictures)}
    if pa.types.is_boolean(kind):
        return {"kind": "flag", **compact([None if v is None else int(v) for v in values.to_pylist()], pictures)}
    return compact([_plain(value, exact) for value in values.to_pylist()], pictures)


def compact(values: Sequence[Any], pictures: Sequence[int]) -> Column:
    """Return the shortest of the four forms."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) <= 1:
        return {"same": distinct[0] if distinct else None}
    of_picture: dict[int, Any] = {}
    if all(of_picture.setdefault(picture, value) == value for picture, value in zip(pictures, values, strict=True)):
        return {"values": [of_picture.get(i) for i in range(max(of_picture) + 1)], "picture": True}
    if len(distinct) * 4 <= len(values) or len(distinct) <= 16:
        position = {value: i for i, value in enumerate(distinct)}
        return {"values": distinct, "index": [position[value] for value in values]}
    return {"each": list(values)}


def _plain(value: Any, exact: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _SAFE_INTEGER else str(value)
    if isinstance(value, float):
        return rounded(value) if not exact else value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def rounded(value: float | None) -> float | int | None:
    """Return the value with four digits; None for what is no number."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() and abs(short) < _SAFE_INTEGER else short
