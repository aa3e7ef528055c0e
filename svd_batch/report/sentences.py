"""The sentences of an analysis as the page and report.md have them: in order, with capitals and full stops."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from svd_batch.analysis import Analysis, Sentence

FIRST = ("motion", "likeness")
"""The metrics that the question of every sweep is about."""
STATED = ("rises", "falls", "peaks", "dips", "uneven", "differs", "one_picture")
"""Kinds of sentences that state an effect."""
_EVIDENCE = re.compile(r" (\((?:change|\d+ pictures?)[^()]*\))$")


@dataclass(frozen=True)
class Said:
    """One sentence, with what stands behind it apart."""

    text: str
    evidence: str = ""
    kind: str = ""


def said(sentence: Sentence, axes: Sequence[str]) -> Said:
    """Return a sentence with a capital, unless it begins with the name of an axis, and its full stop."""
    found = _EVIDENCE.search(sentence.text)
    text = sentence.text[: found.start()] if found else sentence.text
    if not any(text.startswith(f"{name} ") for name in axes):
        text = text[:1].upper() + text[1:]
    return Said(text + ".", found[1].strip("()") if found else "", sentence.kind)


def of_metric(analysis: Analysis, metric: str) -> list[Said]:
    """Return all sentences of a metric."""
    axes = [axis.name for axis in analysis.axes]
    return [said(s, axes) for s in analysis.sentences if s.metric == metric]


def ordered(analysis: Analysis) -> list[str]:
    """Return the metrics' names, the most asked for first."""
    names = [metric.name for metric in analysis.metrics]
    return [*(n for n in FIRST if n in names), *(n for n in names if n not in FIRST)]


def lead(analysis: Analysis) -> list[Said]:
    """Return the few sentences that matter most: effects on motion and likeness, or on the first two metrics there."""
    axes = [axis.name for axis in analysis.axes]
    chosen = ordered(analysis)[:2]
    found = [s for name in chosen for s in analysis.sentences if s.metric == name]
    if any(s.kind in STATED for s in found):
        found = [s for s in found if s.kind in (*STATED, "shares")]
    return [said(s, axes) for s in found]


def without_effect(analysis: Analysis) -> list[tuple[str, tuple[str, ...]]]:
    """Return for each axis the metrics that it has no clear effect on."""
    titles = {metric.name: metric.title for metric in analysis.metrics}
    found = []
    for axis in analysis.axes:
        of_axis = [s for s in analysis.sentences if s.axis == axis.name]
        unclear = tuple(titles[s.metric] for s in of_axis if s.kind == "unclear")
        if unclear:
            found.append((axis.name, unclear))
    return found
