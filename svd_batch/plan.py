"""Images x cells x seeds, minus what is done: the work of a run, in WorkUnits. Opens no picture."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from svd_batch import ids
from svd_batch.records import ImageRecord, PlannedVideo, SweepCell, WorkUnit
from svd_batch.sweep import apply_fixed, check_cell

UNITS_PER_ACTOR = 4


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what it finds done."""

    todo: tuple[tuple[ImageRecord, tuple[PlannedVideo, ...]], ...]
    """Images with the videos to make of each, in manifest order."""
    num_images: int
    num_cells: int
    """Cells of the sweep, before manifest columns fix any."""
    num_videos: int
    """Videos asked for, after equal cells merged."""
    num_done: int
    num_left_failed: int
    """Videos left out because they, or their image, failed in an earlier run."""

    @property
    def num_todo(self) -> int:
        """Videos to make."""
        return sum(len(videos) for _, videos in self.todo)


@dataclass(frozen=True)
class Seeds:
    """Where the seeds of an image come from: a list for all, or a base seed and a count."""

    base_seed: int = 42
    num_seeds: int = 1
    listed: tuple[int, ...] | None = None

    def of(self, image_id: str) -> tuple[int, ...]:
        """Return the image's seeds, by replicate."""
        if self.listed is not None:
            return self.listed
        return tuple(ids.derive_seed(self.base_seed, image_id, r) for r in range(self.num_seeds))


def planned_videos(
    image: ImageRecord, cells: Sequence[SweepCell], seeds: Seeds, pixel_settings: Mapping[str, Any]
) -> tuple[PlannedVideo, ...]:
    """Return every video asked for of one image: cells in sweep order, replicates innermost.

    Raises: UserError when a column fixes a guidance that doesn't fit the sweep's.
    """
    return tuple(
        PlannedVideo(ids.video_id(image.image_id, cell, seed, pixel_settings), cell, seed, replicate)
        for cell in (check_cell(c, f"image {image.image_id}") for c in apply_fixed(cells, image.fixed))
        for replicate, seed in enumerate(seeds.of(image.image_id))
    )


def make_plan(
    images: Sequence[ImageRecord],
    cells: Sequence[SweepCell],
    seeds: Seeds,
    pixel_settings: Mapping[str, Any],
    *,
    done: Collection[str] = (),
    failed: Collection[str] = (),
    recorded_sha256: Mapping[str, str] | None = None,
) -> Plan:
    """Return the plan of a run.

    `done`: video_ids that are committed. `failed`: image_ids and video_ids to leave out. `recorded_sha256`: by
    image_id, what each picture was when its first video was made.
    """
    recorded = recorded_sha256 or {}
    todo: list[tuple[ImageRecord, tuple[PlannedVideo, ...]]] = []
    num_videos = num_done = num_left = 0
    for image in images:
        videos = planned_videos(image, cells, seeds, pixel_settings)
        missing = [v for v in videos if v.video_id not in done]
        wanted = [] if image.image_id in failed else [v for v in missing if v.video_id not in failed]
        num_videos += len(videos)
        num_done += len(videos) - len(missing)
        num_left += len(missing) - len(wanted)
        if wanted:
            known = recorded.get(image.image_id)
            todo.append((replace(image, sha256=known) if known else image, tuple(wanted)))
    return Plan(tuple(todo), len(images), len(cells), num_videos, num_done, num_left)


def split_units(plan: Plan, num_actors: int) -> tuple[WorkUnit, ...]:
    """Return the plan's work in units, at least UNITS_PER_ACTOR for each actor where there is that much to do."""
    most = max(1, plan.num_todo // (UNITS_PER_ACTOR * num_actors))
    return tuple(unit for image, videos in plan.todo for unit in _split(image, videos, most))


def _split(image: ImageRecord, videos: tuple[PlannedVideo, ...], most: int) -> list[WorkUnit]:
    """Return the videos of one image in as few units of at most `most` as possible, evenly filled."""
    num_units = math.ceil(len(videos) / most)
    bounds = [len(videos) * i // num_units for i in range(num_units + 1)]
    return [WorkUnit(image, videos[a:b]) for a, b in pairwise(bounds)]
