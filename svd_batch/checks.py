"""Range checks of single settings, each with one sentence. Standard library alone."""

from __future__ import annotations

import math
from typing import Any

from svd_batch.errors import UserError


def check_int(where: str, value: Any, low: int, high: int, other: str = "") -> None:
    """Raise UserError unless the value is a whole number within the range."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        or_else = f" {other}" if other else ""
        raise UserError(f"{where}: {value!r} is not accepted; give a whole number from {low} to {high}{or_else}")


def check_float(where: str, value: Any, low: float, high: float) -> None:
    """Raise UserError unless the value is a finite number within the range."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        ends = f"from {low:g}" + ("" if math.isinf(high) else f" to {high:g}")
        raise UserError(f"{where}: {value!r} is not accepted; give a number {ends}")
