"""Images x cells x seeds, minus what is done: the work of a run, in WorkUnits. Opens no picture."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from svd_batch import ids
from svd_batch.quality import in_quality
from svd_batch.records import ImageRecord, PlannedVideo, SweepCell, WorkUnit
from svd_batch.sweep import apply_fixed, check_cell

UNITS_PER_ACTOR = 4


@dataclass(frozen=True)
class Seeds:
    """Where the seeds of an image come from: a list for all, or a base seed and a count."""

    base_seed: int = 42
    num_seeds: int = 1
    listed: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Seeds an image."""
        return len(self.listed) if self.listed is not None else self.num_seeds

    def of(self, image_id: str) -> tuple[int, ...]:
        """Return the image's seeds, by replicate."""
        if self.listed is not None:
            return self.listed
        return tuple(ids.derive_seed(self.base_seed, image_id, r) for r in range(self.num_seeds))


@dataclass(frozen=True)
class Request:
    """What is asked for of every image."""

    cells: Sequence[SweepCell]
    seeds: Seeds
    pixel_settings: Mapping[str, Any]
    quality: str = "final"
    """The preset put over every cell, over manifest columns too; `final` puts nothing."""
    chosen: Mapping[str, tuple[SweepCell, ...]] | None = None
    """The only cells wanted, by image_id; None wants all."""

    def image_cells(self, image: ImageRecord) -> tuple[SweepCell, ...]:
        """Return the cells of one image, its fixed fields put in.

        Raises: UserError when a column fixes a guidance that doesn't fit the sweep's.
        """
        if self.chosen is not None:
            return self.chosen.get(image.image_id, ())
        cells = tuple(self.cells)
        if image.fixed:
            cells = tuple(check_cell(c, f"image {image.image_id}") for c in apply_fixed(cells, image.fixed))
        if self.quality != "final":
            cells = tuple(dict.fromkeys(in_quality(cell, self.quality) for cell in cells))
        return cells

    def videos(self, image: ImageRecord) -> tuple[PlannedVideo, ...]:
        """Return every video asked for of one image: cells in sweep order, replicates innermost."""
        image_seeds = self.seeds.of(image.image_id)
        return tuple(
            PlannedVideo(ids.video_id(image.image_id, cell, seed, self.pixel_settings), cell, seed, replicate)
            for cell in self.image_cells(image)
            for replicate, seed in enumerate(image_seeds)
        )


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what it finds done. Counts are at hand; the videos come one image at a time."""

    request: Request
    images_todo: tuple[ImageRecord, ...]
    """Images with a video to make, in manifest order."""
    done: Collection[str]
    failed: Collection[str]
    num_images: int
    num_videos: int
    """Videos asked for, after equal cells merged."""
    num_done: int
    num_left_failed: int
    """Videos left out because they, or their image, failed in an earlier run."""

    @property
    def num_cells(self) -> int:
        """Cells of the sweep, before manifest columns fix any."""
        return len(self.request.cells)

    @property
    def num_todo(self) -> int:
        """Videos to make."""
        return self.num_videos - self.num_done - self.num_left_failed

    def work(self) -> Iterator[tuple[ImageRecord, tuple[PlannedVideo, ...]]]:
        """Yield each image with the videos to make of it."""
        for image in self.images_todo:
            yield image, tuple(v for v in self.request.videos(image) if self._is_wanted(v))

    def _is_wanted(self, video: PlannedVideo) -> bool:
        return video.video_id not in self.done and video.video_id not in self.failed


def make_plan(
    images: Sequence[ImageRecord],
    request: Request,
    *,
    done: Collection[str] = (),
    failed: Collection[str] = (),
    recorded_sha256: Mapping[str, str] | None = None,
) -> Plan:
    """Return the plan of a run.

    `done`: video_ids that are committed. `failed`: image_ids and video_ids to leave out. `recorded_sha256`: by
    image_id, what each picture was when its first video was made. Ids are derived only where something is done or
    failed: a million new images are counted, not hashed.
    """
    recorded = recorded_sha256 or {}
    todo: list[ImageRecord] = []
    num_videos = num_done = num_left = 0
    for image in images:
        num_asked = len(request.image_cells(image)) * request.seeds.count
        num_missing = num_wanted = num_asked
        if done or failed:
            missing = [v for v in request.videos(image) if v.video_id not in done]
            num_missing = len(missing)
            num_wanted = 0 if image.image_id in failed else sum(v.video_id not in failed for v in missing)
        num_videos += num_asked
        num_done += num_asked - num_missing
        num_left += num_missing - num_wanted
        if num_wanted:
            known = recorded.get(image.image_id)
            todo.append(replace(image, sha256=known) if known else image)
    return Plan(request, tuple(todo), done, failed, len(images), num_videos, num_done, num_left)


def heaviest_cell(plan: Plan) -> SweepCell:
    """Return a cell that takes as much memory as any planned one: each field that counts at its largest."""
    largest: dict[str, Any] = {}
    for name in ("decode_chunk_size", "max_guidance_scale", "deep_cache_interval"):
        fixed = [value for image in plan.images_todo for key, value in image.fixed if key == name]
        largest[name] = max([*(getattr(cell, name) for cell in plan.request.cells), *fixed])
    return replace(plan.request.cells[0], **largest)


def split_units(plan: Plan, num_actors: int) -> tuple[WorkUnit, ...]:
    """Return the plan's work in units, at least UNITS_PER_ACTOR for each actor where there is that much to do."""
    most = max(1, plan.num_todo // (UNITS_PER_ACTOR * num_actors))
    return tuple(unit for image, videos in plan.work() for unit in _split(image, videos, most))


def _split(image: ImageRecord, videos: tuple[PlannedVideo, ...], most: int) -> list[WorkUnit]:
    """Return the videos of one image in as few units of at most `most` as possible, evenly filled."""
    num_units = math.ceil(len(videos) / most)
    bounds = [len(videos) * i // num_units for i in range(num_units + 1)]
    return [WorkUnit(image, videos[a:b]) for a, b in pairwise(bounds)]
