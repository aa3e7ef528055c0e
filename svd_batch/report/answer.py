"""The answer, which comes first on the page: one function a part, each with a partial of templates/answer/.

A function returns what its partial shows, or None for nothing to say, and then there is no such part. All of them get
the whole sweep, also where the page has the clips of some pictures alone.

Plots are inline SVG, so that they follow the page's colours: `class="line"`, `area`, `grid`, `label` and the custom
properties of static/page.css. The Content-Security-Policy allows no style attributes; `plain_svg` turns those of a
plotting library into attributes. An element with `data-cell='{"motion_bucket_id": 127}'` shows that cell in the grid
when it is clicked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from svd_batch.report.folders import Sweep


@dataclass(frozen=True)
class Plot:
    """One figure of the page."""

    title: str
    svg: str
    """Inline SVG of our own making: it goes into the page as it is, so text inside must be escaped already."""
    caption: str = ""


def sentences(sweep: Sweep) -> Sequence[str] | None:
    """Return what each parameter did, in plain words with figures."""
    return None


def curves(sweep: Sweep) -> Sequence[Plot] | None:
    """Return a response curve for each metric and axis."""
    return None


def heatmaps(sweep: Sweep) -> Sequence[Plot] | None:
    """Return a heatmap for each metric and pair of axes."""
    return None


def shares(sweep: Sweep) -> Sequence[Plot] | None:
    """Return which axis explains how much of each metric."""
    return None


def pareto(sweep: Sweep) -> Sequence[Plot] | None:
    """Return the cells that no other beats in both motion and likeness."""
    return None


def sensitivity(sweep: Sweep) -> Sequence[Plot] | None:
    """Return how much each picture reacts to each axis; shown among the clips that stand out."""
    return None


_STYLE = re.compile(r' style="([^"]*)"')


def plain_svg(svg: str) -> str:
    """Return SVG with presentation attributes in place of style attributes, without XML's own opening lines."""

    def attributes(found: re.Match[str]) -> str:
        pairs = (part.partition(":") for part in found[1].split(";") if ":" in part)
        return "".join(f' {name.strip()}="{value.strip()}"' for name, _, value in pairs)

    return _STYLE.sub(attributes, svg[svg.index("<svg") :])
