"""The first stage: a manifest's row to a picture at the model's size, or to the reason why there is none."""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from svd_batch.access import ACCESS, Access
from svd_batch.config import Fit
from svd_batch.errors import ItemError, is_of_one_file, store_error
from svd_batch.images import fit_image, one_line, open_image, read_bytes
from svd_batch.records import FailureRecord, PlannedVideo, WorkUnit


@dataclass(frozen=True)
class LoadedUnit:
    """A unit with its picture at the model's size, or with the reason why there is none."""

    unit: WorkUnit
    picture: NDArray[np.uint8] | None
    """(H, W, 3)."""
    sha256: str
    load_s: float
    error: FailureRecord | None = None


def load_image(unit: WorkUnit, height: int, width: int, fit: Fit, access: Access = ACCESS) -> LoadedUnit:
    """Return the unit with its picture; any failure to load becomes a FailureRecord.

    Raises: StoreError when the store of the pictures fails: it is no picture's fault.
    """
    start = time.perf_counter()
    try:
        data = read_bytes(unit.image, access)
        sha256 = hashlib.sha256(data).hexdigest()
        if unit.image.sha256 and unit.image.sha256.lower() != sha256:
            raise ItemError(f"the picture has changed: its sha256 was {unit.image.sha256[:16]}…, is {sha256[:16]}…")
        picture = fit_image(open_image(data, access.max_pixels), height, width, fit)
    except Exception as error:  # the per-item boundary: whatever a picture does, the run goes on
        refused = store_error(error)
        if refused is not None and not is_of_one_file(error):
            raise refused from None
        failure = failure_of(unit, None, "load", error)
        return LoadedUnit(unit, None, "", time.perf_counter() - start, failure)
    return LoadedUnit(unit, picture, sha256, time.perf_counter() - start)


def failure_of(unit: WorkUnit, planned: PlannedVideo | None, stage: str, error: BaseException) -> FailureRecord:
    return FailureRecord(
        image_id=unit.image.image_id,
        image_path=unit.image.image_path,
        video_id=planned.video_id if planned else None,
        stage=stage,
        error_type=type(error).__name__,
        error_message=one_line(error),
        attempts=1,
        created_at=now(),
        host=platform.node(),
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
