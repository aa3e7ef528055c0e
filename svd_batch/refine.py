"""Draft, then final: the grid in draft quality, each draft scored, the best cells of each picture in final quality.

Nothing is remembered but the drafts themselves: their score is a metric in their records, measured when they were made
or else on their files. The same records give the same choice, so a run that was killed anywhere goes on with the same
command. Knows no Hydra and no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean

import pyarrow as pa

from svd_batch import checkpoint, dataset, on_end
from svd_batch.config import Config, RefineConfig
from svd_batch.console import Console
from svd_batch.errors import UserError
from svd_batch.events import EventLog
from svd_batch.job import Job, asked_for, describe, pinned_model, prepare, up_to_date
from svd_batch.lease import Lease
from svd_batch.metrics import METRICS, use_one_thread
from svd_batch.preview import preview
from svd_batch.quality import in_quality
from svd_batch.records import SCORE_COLUMNS, ImageRecord, PlannedVideo, SweepCell
from svd_batch.recover import writing
from svd_batch.room import check_room
from svd_batch.run import Generation, add_to_run, begin, check_device, ending, finish
from svd_batch.score import Encoder, Scorer, load_encoder
from svd_batch.stopping import interruptible


@dataclass(frozen=True)
class Scored:
    """One draft with its score."""

    draft: PlannedVideo
    score: float


def refine(config: Config, console: Console, *, config_yaml: str = "", command: str = "") -> int:
    """Do the job and return the exit code, as `run` does.

    Raises: UserError before anything is generated; when a draft's file is damaged, after the drafts are made.
    """
    on_end.check(config.on_end)
    with interruptible():
        grid = prepare(config)
        drafts = drafts_of(grid)
        check_device(drafts)
        check_room(drafts, console)
        with on_end.notified(config.on_end, grid.store.root, console) as events:
            with writing(grid.store, console) as lease:
                events.exit_code = _refine(up_to_date(grid), console, lease, events, texts=(config_yaml, command))
            return events.exit_code


def _refine(grid: Job, console: Console, lease: Lease, events: EventLog, *, texts: tuple[str, str]) -> int:
    drafts = drafts_of(grid)
    console.say(f"drafts: {describe(drafts)}")
    finals = None if drafts.plan.num_todo else _finals(grid, drafts, console)
    begin(finals or drafts, console, events, texts=texts)
    if finals is not None:
        add_to_run(drafts)
    start, num_asked = time.monotonic(), drafts.plan.num_todo
    with ending() as end, Generation(grid, console, lease, events) as generate:
        generate(drafts)
        if finals is None:
            finals = _finals(grid, drafts, generate.console)
            add_to_run(finals)
        num_asked += finals.plan.num_todo
        generate(finals)
    lease.check()
    return finish(grid, console, time.monotonic() - start, num_asked=num_asked, end=end)


def plan_lines(grid: Job) -> Iterator[str]:
    """Yield what `plan` prints of a grid with refine.best: the drafts in full, and how many finals follow."""
    drafts = drafts_of(grid)
    first, *others = preview(drafts)
    yield f"drafts: {first}"
    yield from others
    best, num_cells = grid.config.refine.best or 0, grid.plan.num_cells
    at_most = best * grid.plan.num_images * grid.plan.request.seeds.count
    yield f"finals:       up to {at_most} videos: the best {best} of {num_cells} cells of each picture"


def drafts_of(grid: Job) -> Job:
    """Return the job that drafts a grid.

    Raises: UserError where a draft can't choose between the cells.
    """
    settings, cells = grid.config.refine, grid.plan.request.cells
    if settings.best is None:
        raise UserError("refine.best: none given; say how many cells of each picture to make in final quality")
    if settings.best >= len(cells):
        raise UserError(
            f"refine.best: {settings.best} of {len(cells)} cells leaves nothing to choose; "
            + (f"give at most {len(cells) - 1}, or use `run`" if len(cells) > 1 else "sweep more cells, or use `run`")
        )
    by_draft: dict[SweepCell, SweepCell] = {}
    for cell in cells:
        draft = in_quality(cell, settings.draft.value)
        if draft == cell:
            raise UserError(
                f"refine.draft: the generation settings are those of quality={settings.draft.value} already; "
                "give those of the final videos, e.g. quality=final"
            )
        if draft in by_draft:
            raise UserError(
                f"sweep: two cells have the same draft, since {_differing(cell, by_draft[draft])} is what "
                f"quality={settings.draft.value} sets; sweep something else, or use `run`"
            )
        by_draft[draft] = cell
    return asked_for(grid, replace(grid.plan.request, quality=settings.draft.value))


def _differing(a: SweepCell, b: SweepCell) -> str:
    return ", ".join(name for name, value in vars(a).items() if value != getattr(b, name))


def _finals(grid: Job, drafts: Job, console: Console) -> Job:
    """Score the drafts, write the scores down and return the job of the best cells."""
    settings = grid.config.refine
    chosen: dict[str, tuple[SweepCell, ...]] = {}
    rows: dict[str, float] = {}
    request = grid.plan.request
    for image, scored in _scored(drafts):
        rows |= {one.draft.video_id: one.score for one in scored}
        cells = {in_quality(cell, settings.draft.value): cell for cell in request.image_cells(image)}
        chosen[image.image_id] = tuple(cells[draft] for draft in best_cells(scored, settings))
        by_seed = {(one.draft.cell, one.draft.seed): one.score for one in scored}
        for final in replace(request, chosen=chosen).videos(image):
            score = by_seed.get((in_quality(final.cell, settings.draft.value), final.seed))
            rows |= {} if score is None else {final.video_id: score}
    finals = asked_for(grid, replace(request, chosen=chosen))
    console.say(f"finals: {describe(finals)}")
    if rows:
        console.say(_spread(settings, rows))
        columns = (list(rows), [settings.metric] * len(rows), list(rows.values()))
        dataset.save_scores(grid.store, pa.table(dict(zip(("video_id", *SCORE_COLUMNS), columns, strict=True))))
    return finals


def _spread(settings: RefineConfig, scores: Mapping[str, float]) -> str:
    wanted = "lowest" if METRICS[settings.metric].better == "lower" else "highest"
    wanted = wanted if settings.target is None else f"nearest to {settings.target:g}"
    low, high = min(scores.values()), max(scores.values())
    return f"scores: {settings.metric} of the drafts from {low:.4g} to {high:.4g}; {wanted} first"


def best_cells(scored: Sequence[Scored], settings: RefineConfig) -> list[SweepCell]:
    """Return the cells of one picture's best drafts, in the grid's order; the seeds of a cell count by their mean.

    Of cells that are equally good the first of the grid are taken.
    """
    by_cell: dict[SweepCell, list[float]] = {}
    for one in scored:
        by_cell.setdefault(one.draft.cell, []).append(one.score)

    def badness(cell: SweepCell) -> float:
        mean = fmean(by_cell[cell])
        if settings.target is not None:
            return abs(mean - settings.target)
        return mean if METRICS[settings.metric].better == "lower" else -mean

    ranked = sorted(by_cell, key=badness)[: settings.best]
    return [cell for cell in by_cell if cell in ranked]


def _scored(drafts: Job) -> Iterator[tuple[ImageRecord, list[Scored]]]:
    """Yield each picture that has drafts, with its drafts in the grid's order; those that failed are left out."""
    config = drafts.config
    images = {image.image_id: image for image in drafts.manifest.images}

    def encoder() -> Encoder:
        return load_encoder(checkpoint.fetch(pinned_model(drafts)), config.model)

    scorer = Scorer(drafts.store, images, config.fit, config.access(), encoder)
    use_one_thread()
    with ThreadPoolExecutor() as pool:
        for image in drafts.manifest.images:
            videos = drafts.plan.request.videos(image)
            scores = pool.map(lambda video: _score(scorer, video, config.refine.metric), videos)
            scored = [Scored(v, score) for v, score in zip(videos, scores, strict=True) if score is not None]
            if scored:
                yield image, scored


def _score(scorer: Scorer, draft: PlannedVideo, metric: str) -> float | None:
    """Return a draft's score, None where there is no draft; measured on its file where it wasn't before.

    Raises: UserError when it can't be measured.
    """
    record = scorer.store.read_record(draft.video_id)
    if record is None:
        return None
    reason = f"it has no {metric}"
    try:
        if metric not in record.metrics:
            record = scorer.score(record, [metric])
    except OSError as error:
        reason = str(error)
    if metric not in record.metrics:
        raise UserError(f"refine: the draft {draft.video_id} can't be scored: {'; '.join(scorer.notes) or reason}")
    return float(record.metrics[metric])
