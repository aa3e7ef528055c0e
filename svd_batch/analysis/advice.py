"""A recommendation as lines for the shell and as a sweep to paste; and what the command line asks, as a target."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
from collections.abc import Iterator, Sequence

import yaml

from svd_batch.analysis import wording
from svd_batch.analysis.names import check_metric, describe
from svd_batch.analysis.recommend import Bound, Choice, PictureChoice, Recommendation, Target, recommend
from svd_batch.analysis.summary import to_json
from svd_batch.analysis.videos import Cell, Videos, read_videos
from svd_batch.errors import UserError
from svd_batch.records import CELL_FIELDS, EXACT, CellValue


def answer(asked: argparse.Namespace) -> str:
    """Return what the verb `recommend` prints for its parsed arguments.

    Raises: UserError for a folder without videos, an option that is not accepted and a metric without values.
    """
    videos = read_videos(asked.outputs)
    if not len(videos):
        raise UserError(f"OUTPUT: {', '.join(map(str, asked.outputs))} has no videos yet; `svd-batch run` makes them")
    columns = _Columns(videos, shlex.join(map(str, asked.outputs)))
    if asked.motion is not None:
        target = columns.target("--motion", "motion", asked.motion)
    else:
        target = columns.target("--target", *split("--target", asked.target))
    bounds = [] if asked.min_likeness is None else [columns.bound("--min-likeness", "likeness", asked.min_likeness)]
    for field, texts in (("--at-least", asked.at_least), ("--at-most", asked.at_most)):
        bounds += [columns.bound(field, *split(field, text)) for text in texts]
    found = recommend(videos, target, bounds, share=_share(asked.pictures))
    if asked.json:
        return to_json(found if asked.per_image else dataclasses.replace(found, pictures=()))
    if asked.yaml:
        return sweep_yaml(found, per_image=asked.per_image).rstrip("\n")
    return "\n".join(lines(found, per_image=asked.per_image))


class _Columns:
    """The metrics that a table has, and options checked against them."""

    def __init__(self, videos: Videos, outputs: str) -> None:
        self.names = [*videos.metrics, *(name for name in videos.numeric if name not in videos.metrics)]
        self.outputs = outputs

    def target(self, field: str, metric: str, text: str) -> Target:
        """Return the target that an option asks for: a number, `most` or `least`."""
        check_metric(metric, self.names, field, self.outputs)
        if text == "most":
            return Target(metric, "most")
        return Target(metric, "least" if text == "least" else _number(field, text, "a number, most or least"))

    def bound(self, field: str, metric: str, text: str) -> Bound:
        """Return the bound that an option asks for."""
        check_metric(metric, self.names, field, self.outputs)
        number = _number(field, text, "a number" if field == "--min-likeness" else "METRIC=VALUE with a number")
        return Bound(metric, at_most=number) if field == "--at-most" else Bound(metric, at_least=number)


def split(field: str, text: str) -> tuple[str, str]:
    """Return metric and value of METRIC=VALUE."""
    metric, equals, value = text.partition("=")
    if not equals or not metric or not value:
        raise UserError(f"{field}: {text!r} is not accepted; give METRIC=VALUE, such as likeness=0.8")
    return metric.strip(), value.strip()


def _share(text: str) -> float:
    """Return the fraction of pictures that must keep the bounds."""
    share = _number("--pictures", text, "a fraction above 0, up to 1")
    if not 0 < share <= 1:
        raise UserError(f"--pictures: {text} is not accepted; give a fraction above 0, up to 1")
    return share


def _number(field: str, text: str, accepted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{field}: {text!r} is not accepted; give {accepted}")
    return number


def _named(names: Sequence[str]) -> str:
    return " ".join(names)


# --- lines for the shell ----------------------------------------------------------------------------------


def question(found: Recommendation) -> str:
    """Return what was asked, in words."""
    metric = describe(found.target.metric)
    if isinstance(found.target.value, str):
        wanted = f"{found.target.value} {metric.title}"
    else:
        wanted = f"{metric.title} nearest to {wording.with_unit(f'{found.target.value:g}', metric)}"
    bounds = [_bound(b) for b in found.bounds]
    return wanted + (f", with {' and '.join(bounds)}" if bounds else "")


def _bound(bound: Bound) -> str:
    metric = describe(bound.metric)
    side, value = ("at least", bound.at_least) if bound.at_least is not None else ("at most", bound.at_most)
    return f"{metric.title} {side} {wording.with_unit(f'{value:g}', metric)}"


def lines(found: Recommendation, *, per_image: bool) -> Iterator[str]:
    """Yield the answer for a reader in a shell."""
    yield f"{question(found)}; {found.num_pictures} pictures, {found.num_cells} cells"
    if found.num_sparse_cells:
        yield f"{found.num_sparse_cells} cells are passed over: most pictures lack them"
    yield ""
    if not found.best.is_met:
        yield f"No cell keeps {_enough(found)}; the nearest {_misses(found, found.best)}:"
    yield from _table([_row(found, c, "best" if c is found.best else "") for c in (found.best, *found.runners_up)])
    yield ""
    yield "Figures are medians over pictures, in brackets the tenth to the ninetieth percentile."
    if not per_image:
        return
    yield ""
    yield f"For each picture its own cell; {found.num_pictures_met} of {found.num_pictures} have one that fits."
    yield ""
    yield from _table([_picture_row(found, picture) for picture in found.pictures])


def _enough(found: Recommendation) -> str:
    bounds = "the bound" if len(found.bounds) == 1 else "the bounds"
    return f"{bounds} for {found.share * 100:g} % of its pictures"


def _misses(found: Recommendation, choice: Choice | PictureChoice) -> str:
    parts = [
        f"{describe(b.metric).title} by {wording.with_unit(wording.number(miss), describe(b.metric))}"
        for b, miss in zip(found.bounds, choice.misses, strict=True)
        if miss > 0
    ]
    if parts:
        return f"misses {' and '.join(parts)}"
    return "keeps each of them for enough pictures, but not all at once"


def _parameters(found: Recommendation) -> list[str]:
    """Return the fields in which the cells differ."""
    names = [n for n in CELL_FIELDS if len({getattr(c.settings, n) for c in found.cells}) > 1]
    return [*(["output"] if len({c.output for c in found.cells}) > 1 else []), *names]


def _values(found: Recommendation, cell: Cell) -> dict[str, str]:
    """Return the parameters of a cell that differ between cells."""
    values = {n: cell.output if n == "output" else getattr(cell.settings, n) for n in _parameters(found)}
    shown = {n: f"{v:g}" if isinstance(v, float) else str(v) for n, v in values.items()}
    return shown or {"cell": "the only one"}


def _row(found: Recommendation, choice: Choice, mark: str) -> dict[str, str]:
    figures = {e.metric: f"{_figure(e.median)} ({_figure(e.low)} to {_figure(e.high)})" for e in choice.expected}
    kept = {"keep the bounds": f"{choice.num_keeping} of {choice.num_pictures}"} if found.bounds else {}
    count = {} if found.bounds else {"pictures": str(choice.num_pictures)}
    return {"": mark, **_values(found, choice.cell), **figures, **kept, **count}


def _picture_row(found: Recommendation, picture: PictureChoice) -> dict[str, str]:
    figures = {m: _figure(v) for m, v in zip(found.metrics, picture.values, strict=True)}
    name = json.dumps(picture.image_id, ensure_ascii=False)[1:-1]  # a line break in an id stays on its line
    miss = {} if not found.bounds else {"bounds": "kept" if picture.is_met else _misses(found, picture)}
    return {"picture": name, **_values(found, found.cells[picture.index]), **figures, **miss}


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _table(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    for row in [{name: name for name in widths}, *rows]:
        yield "  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip()


# --- a sweep to paste -------------------------------------------------------------------------------------


def sweep_yaml(found: Recommendation, *, per_image: bool) -> str:
    """Return a file for `+sweep=`: the best cell, or all cells that some picture has as its own."""
    head = [f"{question(found)}: from {found.num_pictures} pictures of {_named(found.outputs)}."]
    if not found.best.is_met:
        head.append(f"No cell keeps {_enough(found)}; this one {_misses(found, found.best)}.")
    chosen = sorted({p.index for p in found.pictures}) if per_image else [found.best.index]
    if per_image:
        head = [f"{head[0][:-1]}, the cells that are some picture's own."]
        head += [f"cells[{n}]: {_owners(found, index)}" for n, index in enumerate(chosen)]
    head += [f"made in {o}" for o in dict.fromkeys(found.cells[i].output for i in chosen) if o]
    head.append("Save as my_conf/sweep/chosen.yaml, then: svd-batch run --config-dir my_conf +sweep=chosen")
    cells = [_fields(found.cells[index]) for index in chosen]
    body: object = {"cells": cells} if per_image else cells[0]
    comments = "".join(f"# {' '.join(line.split())}\n" for line in head)
    return comments + yaml.safe_dump(body, sort_keys=False, default_flow_style=None if per_image else False, width=1000)


def _owners(found: Recommendation, index: int) -> str:
    return ", ".join(json.dumps(p.image_id, ensure_ascii=False) for p in found.pictures if p.index == index)


def _fields(cell: Cell) -> dict[str, CellValue]:
    """Return every field of a cell; approximations only where there are any."""
    values = {name: getattr(cell.settings, name) for name in CELL_FIELDS}
    return {name: value for name, value in values.items() if EXACT.get(name) != value}
