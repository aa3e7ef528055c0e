"""Images x cells x seeds, minus what is done: the work of a run, in WorkUnits. Opens no picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, compress, islice, pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from svd_batch import ids
from svd_batch.id_set import IdSet, pack, unpack
from svd_batch.quality import in_quality
from svd_batch.records import CellValue, ImageRecord, PlannedVideo, SweepCell, WorkUnit
from svd_batch.sweep import apply_fixed, check_cell

UNITS_PER_ACTOR = 4

_AT_ONCE = 4096
"""Images whose videos are looked up together."""

_MOST_FIXED = 4096
"""Combinations of fixed fields whose cells are remembered."""


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
        return tuple(self._asked(image))

    def videos(self, image: ImageRecord) -> tuple[PlannedVideo, ...]:
        """Return every video asked for of one image: cells in sweep order, replicates innermost."""
        seeds = self.seeds.of(image.image_id)
        cells = self._asked(image)
        digests = iter(self._ids.digests(image.image_id, cells.values(), seeds))
        return tuple(
            PlannedVideo(next(digests).hex(), cell, seed, replicate)
            for cell in cells
            for replicate, seed in enumerate(seeds)
        )

    def num_asked(self, image: ImageRecord) -> int:
        """Return how many videos are asked for of one image."""
        return len(self._asked(image)) * self.seeds.count

    def digests(self, image: ImageRecord) -> list[bytes]:
        """Return the ids of `videos` alone, in ten bytes each."""
        return self._ids.digests(image.image_id, self._asked(image).values(), self.seeds.of(image.image_id))

    @cached_property
    def _ids(self) -> ids.VideoIds:
        return ids.VideoIds(self.pixel_settings)

    @cached_property
    def _by_fixed(self) -> dict[tuple[tuple[str, CellValue], ...], dict[SweepCell, bytes]]:
        return {}

    def _asked(self, image: ImageRecord) -> dict[SweepCell, bytes]:
        """Return the cells of one image, each with what stands for it in a video's id."""
        if self.chosen is not None:
            return {cell: ids.cell_text(cell) for cell in self.chosen.get(image.image_id, ())}
        cells = self._by_fixed.get(image.fixed)
        if cells is None:
            found = tuple(self.cells)
            if image.fixed:
                found = tuple(check_cell(c, f"image {image.image_id}") for c in apply_fixed(found, image.fixed))
            cells = {}
            for cell in found if self.quality == "final" else (in_quality(cell, self.quality) for cell in found):
                cells.setdefault(cell, ids.cell_text(cell))
            if len(self._by_fixed) >= _MOST_FIXED:
                self._by_fixed.clear()
            self._by_fixed[image.fixed] = cells
        return cells


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what it finds done. Counts are at hand; images and videos come one image at a time."""

    request: Request
    images: Sequence[ImageRecord]
    todo: NDArray[np.int64]
    """Positions of the images with a video to make, in manifest order."""
    done: IdSet
    failed: Set[str]
    num_images: int
    num_videos: int
    """Videos asked for, after equal cells merged."""
    num_done: int
    num_left_failed: int
    """Videos left out because they, or their image, failed in an earlier run."""
    recorded_sha256: Mapping[str, str] = field(default_factory=dict)
    """By image_id, what a picture was when its first video was made."""

    @property
    def num_cells(self) -> int:
        """Cells of the sweep, before manifest columns fix any."""
        return len(self.request.cells)

    @property
    def num_todo(self) -> int:
        """Videos to make."""
        return self.num_videos - self.num_done - self.num_left_failed

    @property
    def images_todo(self) -> Sequence[ImageRecord]:
        """Images with a video to make, in manifest order; each is made when it is asked for."""
        return _ImagesTodo(self)

    def work(self) -> Iterator[tuple[ImageRecord, tuple[PlannedVideo, ...]]]:
        """Yield each image with the videos to make of it."""
        if not self.done and not self.failed:
            yield from ((image, self.request.videos(image)) for image in self.images_todo)
            return
        left_out = IdSet.of(self.failed)
        images = iter(self.images_todo)
        while some := list(islice(images, _AT_ONCE // 16)):
            videos = [self.request.videos(image) for image in some]
            packed = pack("".join(video.video_id for several in videos for video in several).encode())
            wanted = iter(~(self.done.contains(*packed) | left_out.contains(*packed)))
            for image, several in zip(some, videos, strict=True):
                yield image, tuple(compress(several, wanted))


class _ImagesTodo(Sequence[ImageRecord]):
    """The images of a plan that have a video to make, with the sha256 on record where there is one."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan.todo)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRecord]: ...
    def __getitem__(self, index: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        image = self._plan.images[int(self._plan.todo[index])]
        known = self._plan.recorded_sha256.get(image.image_id)
        return replace(image, sha256=known) if known else image


def make_plan(
    images: Sequence[ImageRecord],
    request: Request,
    *,
    done: Set[str] = frozenset(),
    failed: Set[str] = frozenset(),
    recorded_sha256: Mapping[str, str] | None = None,
) -> Plan:
    """Return the plan of a run.

    `done`: video_ids that are committed. `failed`: image_ids and video_ids to leave out. `recorded_sha256`: by
    image_id, what each picture was when its first video was made. Ids are derived only where something is done or
    failed: a million new images are counted, not hashed.
    """
    packed = done if isinstance(done, IdSet) else IdSet.of(done)
    counted = _count_known(images, request, packed, failed) if packed or failed else _count(images, request)
    asked, found, wanted = counted
    numbers = (len(images), int(asked.sum()), int(found.sum()), int((asked - found - wanted).sum()))
    return Plan(request, images, np.flatnonzero(wanted), packed, failed, *numbers, recorded_sha256 or {})


_Counts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""For each image the videos that are asked for, that are done, and that are to be made."""


def _count(images: Sequence[ImageRecord], request: Request) -> _Counts:
    """Count where nothing is done yet."""
    asked = np.fromiter((request.num_asked(image) for image in images), np.int64, len(images))
    return asked, np.zeros_like(asked), asked


def _count_known(images: Sequence[ImageRecord], request: Request, done: IdSet, failed: Set[str]) -> _Counts:
    """Count against what is done or failed, some thousand images at once.

    One thread looks ids up, which NumPy does without holding the others up, while the next ones are derived.
    """
    failed_videos = IdSet.of(failed)
    asked, found, wanted = (np.zeros(len(images), np.int64) for _ in range(3))
    remaining = iter(images)

    def look_up(part: slice, digests: list[list[bytes]], left_out: list[bool]) -> None:
        packed = unpack(b"".join(chain.from_iterable(digests)))
        is_done = done.contains(*packed)
        is_failed = failed_videos.contains(*packed) & ~is_done if failed else np.zeros_like(is_done)
        ends = np.cumsum(asked[part])
        found[part] = _sums(is_done, ends)
        wanted[part] = asked[part] - found[part] - _sums(is_failed, ends)
        wanted[part][left_out] = 0

    with ThreadPoolExecutor(1) as pool:
        before: Future[None] | None = None
        for start in range(0, len(images), _AT_ONCE):
            some = list(islice(remaining, _AT_ONCE))
            part = slice(start, start + len(some))
            digests = [request.digests(image) for image in some]
            asked[part] = [len(one) for one in digests]
            if before is not None:
                before.result()  # no more than two lots in memory
            before = pool.submit(look_up, part, digests, [image.image_id in failed for image in some])
        if before is not None:
            before.result()
    return asked, found, wanted


def _sums(values: NDArray[np.bool_], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many are true in each of the stretches that end there."""
    total = np.concatenate([[0], np.cumsum(values)])
    return np.asarray(np.diff(total[np.concatenate([[0], ends])]))


def heaviest_cell(plan: Plan) -> SweepCell:
    """Return a cell that takes as much memory as any planned one: each field that counts at its largest."""
    largest: dict[str, Any] = {}
    for name in ("decode_chunk_size", "max_guidance_scale", "deep_cache_interval"):
        largest[name] = max([*(getattr(cell, name) for cell in plan.request.cells), *fixed_values(plan, name)])
    return replace(plan.request.cells[0], **largest)


def fixed_values(plan: Plan, name: str) -> set[Any]:
    """Return the values at which images with a video to make fix a field of a cell."""
    combinations = {image.fixed for image in plan.images_todo}
    return {value for fixed in combinations for key, value in fixed if key == name}


def split_units(plan: Plan, num_actors: int) -> Iterator[WorkUnit]:
    """Yield the plan's work in units, at least UNITS_PER_ACTOR for each actor where there is that much to do."""
    most = max(1, plan.num_todo // (UNITS_PER_ACTOR * num_actors))
    return (unit for image, videos in plan.work() for unit in _split(image, videos, most))


def _split(image: ImageRecord, videos: tuple[PlannedVideo, ...], most: int) -> list[WorkUnit]:
    """Return the videos of one image in as few units of at most `most` as possible, evenly filled."""
    num_units = math.ceil(len(videos) / most)
    bounds = [len(videos) * i // num_units for i in range(num_units + 1)]
    return [WorkUnit(image, videos[a:b]) for a, b in pairwise(bounds)]
