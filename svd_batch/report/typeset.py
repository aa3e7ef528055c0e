"""How figures stand in the page's text: with a true minus sign, and with no line broken between number and unit.

Texts are made plainly, for Markdown and terminals too, and set only where they go into the page.
"""

from __future__ import annotations

import re

from svd_batch import metrics

MINUS, NO_BREAK = "−", "\u00a0"
_UNITS = {"%", "s", "min", "h", "px", "bytes", "KiB", "MiB", "GiB", "UTC", "videos/min"} | {
    metric.short_unit.split()[0] for metric in metrics.METRICS.values() if not metric.is_flag and metric.short_unit
}
_GAP = re.compile(rf"(?<=\d) (?=(?:{'|'.join(map(re.escape, sorted(_UNITS)))})(?!\w))")
_NUMBER = re.compile(r"(?<![\w./-])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")
"""Not those in a date, a path or a name: their hyphens are hyphens."""


def typeset(text: str) -> str:
    """Return a text as the page shows it."""
    return _GAP.sub(NO_BREAK, _NUMBER.sub(lambda found: found[0].replace("-", MINUS), text))
