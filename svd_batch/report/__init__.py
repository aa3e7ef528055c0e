"""Output folders to one HTML page. Needs neither torch nor ray.

Reads tables and a few small files of .svd_batch; videos stay where they are and are linked relatively, unless the page
is to be mailed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svd_batch.analysis import Analysis, analyse, videos_of
from svd_batch.errors import UserError
from svd_batch.locations import is_remote
from svd_batch.report import costs
from svd_batch.report.answer import answer, cell_seconds
from svd_batch.report.axes import Axis, constants, varying_axes
from svd_batch.report.extremes import extremes, flagged, rows_that_stand_out
from svd_batch.report.folders import Sweep, read_sweep
from svd_batch.report.html import render
from svd_batch.report.markdown import PLOTS, write_markdown
from svd_batch.report.measures import measures
from svd_batch.report.page_data import extremes_data, page_data
from svd_batch.report.progress import going_on
from svd_batch.report.provenance import provenance
from svd_batch.report.reactions import reactions
from svd_batch.report.selection import MOST_CLIPS, Selection, select
from svd_batch.store import Store, flush, move

FOLDER = "report"
"""Where files beside the page go, below the (first) output folder."""


def write_report(
    roots: Path | Sequence[Path],
    out: Path | None = None,
    *,
    embed: bool = False,
    live: bool = False,
    refresh_s: float | None = None,
    most_clips: int = MOST_CLIPS,
    markdown: bool = False,
    by_run: bool = False,
) -> Path:
    """Write the page of one or more output folders and return its path, report.html of the first by default.

    `embed` puts the clips into it, `live` takes the videos from the records, `refresh_s` makes it load itself anew,
    `markdown` writes report.md below the first folder from the same analysis, `by_run` asks no folder how its run gets
    on: it is the caller's, at its end.

    Raises: UserError when one is no output folder with a table, or the page can't be written.
    """
    roots = list(roots) if isinstance(roots, Sequence) else [roots]
    path = out or roots[0] / "report.html"
    sweep = read_sweep(roots, live=live)
    if markdown:
        sweep.folders[0].store.check_place(roots[0] / FOLDER / PLOTS)
    answered = analysed(sweep)
    progress = [] if by_run else list(going_on(sweep.folders))
    html = page(sweep, path, answered, embed=embed, refresh_s=refresh_s, most_clips=most_clips, progress=progress)
    _write(sweep.folders[0].store, html, path)
    if markdown:
        write_markdown(answered.analysis, roots[0] / FOLDER, answered.cell_s)
    return path


@dataclass(frozen=True)
class Answered:
    """What the whole table says, not only the clips that a page has."""

    analysis: Analysis
    cell_s: list[float | None]
    """What a video took, by cell."""


def analysed(sweep: Sweep) -> Answered:
    """Return what the videos say."""
    filled = {folder.name: folder.table for folder in sweep.folders if folder.table.num_rows}
    videos = videos_of(filled or {folder.name: folder.table for folder in sweep.folders})
    return Answered(analyse(videos), cell_seconds(videos))


def page(
    sweep: Sweep,
    path: Path,
    answered: Answered,
    *,
    embed: bool = False,
    refresh_s: float | None = None,
    most_clips: int = MOST_CLIPS,
    progress: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page that is to stand at `path`; `progress` is what `going_on` found."""
    axes = varying_axes(sweep) if sweep.num_videos else []
    found = list(measures(sweep))
    stand_out, flags = extremes(sweep, found), flagged(sweep, found)
    selection = select(sweep, rows_that_stand_out(stand_out, flags), most_clips)
    data = page_data(sweep, selection, axes, found, path, embed=embed)
    data["extremes"] = extremes_data(stand_out, flags, selection)
    data["refreshS"] = refresh_s
    return render(
        data,
        **_header(sweep, axes, selection),
        num_missing=len(data["missing"]),
        refresh_s=refresh_s,
        progress=progress,
        has_metrics=any(measure.is_metric for measure in found),
        embed=embed,
        **_answer(sweep, answered),
        failures=costs.failures(sweep),
        stages=costs.stages(sweep),
        shares=costs.shares,
        devices=costs.devices(sweep),
        sessions=costs.sessions(sweep),
        provenance=[provenance(folder, path) for folder in sweep.folders],
    )


def _answer(sweep: Sweep, answered: Answered) -> dict[str, Any]:
    """Return the answer as templates show it; nothing where there is no video."""
    if not sweep.num_videos:
        return {"answer": None, "reactions": []}
    score = " ".join(str(folder.store.root) for folder in sweep.folders)
    found = answer(answered.analysis, answered.cell_s, score=score)
    return {"answer": found, "reactions": reactions(answered.analysis)}


def _header(sweep: Sweep, axes: Sequence[Axis], selection: Selection) -> dict[str, Any]:
    rows = sweep.table.slice(0, 1).to_pylist()
    shapes = sweep.table.group_by(["num_frames", "width", "height"]).aggregate([]).to_pylist() if rows else []
    return {
        "name": " · ".join(folder.name for folder in sweep.folders),
        "folders": [folder.name for folder in sweep.folders],
        "num_videos": sweep.num_videos,
        "num_videos_there": sweep.num_videos_there,
        "selection": selection,
        "models": sorted({str(model) for model in sweep.table["model_id"].unique().to_pylist()}) if rows else [],
        "shapes": [(shape["num_frames"], shape["width"], shape["height"]) for shape in shapes],
        "axes": axes,
        "constants": constants(sweep, list(axes)),
        "written_ms": int(datetime.now(UTC).timestamp() * 1000),
    }


def _write(store: Store, html: str, path: Path) -> None:
    """Write the page beside its place and rename it, so that whoever looks finds it whole."""
    inside = is_remote(path) or (
        not store.is_remote and path.resolve().is_relative_to(store.root.resolve()) and store.internal.is_dir()
    )
    temporary = store.temporary("html") if inside else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(html, encoding="utf-8")
        flush(temporary)
        move(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"report: {path} can't be written: {error.strerror or error}; give another place by -o"
        ) from None
