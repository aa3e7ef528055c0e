"""Whether a job's videos fit on the disk that they go to, by the plan's count. Writes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svd_batch.config import Codec, VideoConfig
from svd_batch.console import Console, size
from svd_batch.errors import UserError
from svd_batch.job import Job
from svd_batch.records import VideoRecord

BYTES_PER_PIXEL = {Codec.h264: 0.06, Codec.gif: 1.0, Codec.webp: 0.07, Codec.ffv1: 1.5}
"""Rough file bytes per pixel and frame at the default quality, used until OUTPUT has videos to measure."""

USUAL_QUALITY = 6.5
"""What the figures of H.264 and WebP are for."""

RECORD_BYTES = 12_288
"""A video's record, its row and what its files take beyond their length, in blocks of 4 KiB."""

ROUGH = 2.0
"""How many times too large a rough estimate may be."""

_MEASURED = 1000


@dataclass(frozen=True)
class Room:
    """What a job needs of a disk, and what that has."""

    folder: Path
    num_videos: int
    needed_bytes: float
    free_bytes: int | None
    """None of a store, which tells nobody."""
    source: str
    is_measured: bool

    @property
    def is_too_little(self) -> bool:
        """Whether the videos can't fit, by any doubt about the estimate."""
        sure = self.needed_bytes / (1 if self.is_measured else ROUGH)
        return self.free_bytes is not None and sure > self.free_bytes

    def refusal(self) -> str:
        """Return what is lacking, in one sentence."""
        free = size(self.free_bytes or 0)
        return (
            f"output: {self.num_videos} videos take about {size(self.needed_bytes)} ({self.source}) and the disk of "
            f"{self.folder} has {free} free; free some, give another output, or make fewer videos"
        )


def some_records(job: Job) -> list[VideoRecord]:
    """Return records of the job's output folder, as many as tell what a video takes."""
    return [record for record, _ in zip(job.store.records(), range(_MEASURED), strict=False)]


def room_for(job: Job, measured: Sequence[VideoRecord]) -> Room:
    """Return what the job's videos need, going by those that were made where there are any."""
    model, num_videos = job.config.model, job.plan.num_todo
    if measured:
        each = sum(record.num_bytes for record in measured) / len(measured)
        source = f"measured on {len(measured)} videos there"
    else:
        each = bytes_a_pixel(job.config.video) * model.num_frames * model.height * model.width
        source = "a rough estimate: nothing is made yet"
    folder = job.store.root if job.store.is_remote else _existing(job.store.root)
    free = None if job.store.is_remote else shutil.disk_usage(folder).free
    return Room(folder, num_videos, num_videos * (each + RECORD_BYTES), free, source, bool(measured))


def bytes_a_pixel(video: VideoConfig) -> float:
    """Return rough file bytes per pixel and frame; H.264's halve or double every 6 of its 51 steps of quality.

    Source: https://trac.ffmpeg.org/wiki/Encode/H.264 (a change of 6 of the CRF)
    """
    usual = BYTES_PER_PIXEL[video.codec]
    if video.codec is not Codec.h264 or video.quality is None:
        return usual
    return usual * float(2 ** ((video.quality - USUAL_QUALITY) * 5.1 / 6))


def check_room(job: Job, console: Console) -> None:
    """Warn where the job's videos may not fit on their disk.

    Raises: UserError with the numbers where they clearly don't.
    """
    if not job.plan.num_todo or job.store.is_remote:
        return
    room = room_for(job, some_records(job))
    if room.is_too_little:
        raise UserError(room.refusal())
    if room.free_bytes is not None and room.needed_bytes > room.free_bytes:
        console.warn(f"{room.refusal()} where the estimate is right")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
