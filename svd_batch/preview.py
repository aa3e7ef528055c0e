"""What `plan` prints: counts, bytes and time of a job, and the pictures that will fail. Touches no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from svd_batch.access import printable, short
from svd_batch.config import CheckImages
from svd_batch.console import duration, size
from svd_batch.job import SAMPLE_IMAGES, UNRESOLVED, Job, describe, unreadable
from svd_batch.outlook import outlook
from svd_batch.room import room_for, some_records


def preview(job: Job) -> Iterator[str]:
    """Yield the lines that `plan` prints."""
    plan, model = job.plan, job.config.model
    yield describe(job)
    yield f"pictures:     {plan.num_images}"
    yield f"cells:        {plan.num_cells}"
    yield f"videos:       {plan.num_videos}, each {model.num_frames} frames of {model.width}x{model.height}"
    yield f"already done: {plan.num_done}"
    if plan.num_left_failed:
        yield f"left out:     {plan.num_left_failed} that failed earlier; retry_failed=true tries them again"
    yield f"to do:        {plan.num_todo}"
    if job.revision == UNRESOLVED:
        yield "note:         the hub can't be reached, so the model's revision is unknown and nothing counts as done"
    yield from _cost(job)
    if plan.num_todo:
        yield from outlook(job)
    yield from _bad_pictures(job)


def _cost(job: Job) -> Iterator[str]:
    plan = job.plan
    measured = some_records(job)
    room = room_for(job, measured)
    free = f", {size(room.free_bytes)} free" if room.free_bytes is not None else ""
    yield f"disk:         {size(room.needed_bytes)} more ({room.source}){free}"
    if room.is_too_little:
        yield f"note:         {room.refusal()}"
    if measured:
        seconds = median(r.generate_s for r in measured)
        yield (
            f"time:         {duration(seconds * plan.num_todo)} of generation by one actor "
            f"({seconds:.2f} s a video, measured on {measured[0].device_name})"
        )
    else:
        yield "time:         not known yet; a first run in this output measures it"


def _bad_pictures(job: Job) -> Iterator[str]:
    check = job.config.check_images
    if check is CheckImages.none:
        yield "pictures checked: none (check_images=none)"
        return
    bad = unreadable(job, check)
    num_images = len(job.plan.images_todo)
    opened = min(num_images, SAMPLE_IMAGES) if check is CheckImages.sample else num_images
    yield f"pictures checked: {opened} of {num_images}, {len(bad)} will fail"
    for image, reason in bad:
        yield f"  {short(printable(image.image_path or image.image_id), 160)}: {reason}"
