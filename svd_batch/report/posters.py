"""The first frame of each clip as a small JPEG under .svd_batch/posters/, made once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from svd_batch.errors import UserError
from svd_batch.store import Store
from svd_batch.video import silence_opencv

MOST_OF_THEIR_OWN = 250
"""In a page of more clips, those of a picture in a folder share the first one's: decoding 1,000 takes half a minute."""
MOST_POSTERS = 400
"""So many are made; clips beyond them show their first frame once they are loaded."""
_WIDTH_PX = 256
_QUALITY = 70
_STILL = (".gif", ".webp")
"""Pictures, which a page shows as they are."""


def poster_name(file_name: str) -> str:
    """Return where a clip's poster is, below the output folder."""
    path = Path(file_name)
    return f".svd_batch/posters/{path.parent.name}/{path.stem}.jpg"


def make_posters(store: Store, file_names: Sequence[str]) -> list[bool]:
    """Return for each clip whether it has a poster, after making those that are missing; never raises.

    A poster that is older than its clip is made again.
    """
    silence_opencv()
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: _has_poster(store, name), file_names))


def _has_poster(store: Store, file_name: str) -> bool:
    if file_name.endswith(_STILL) or store.is_remote:  # each would have to be fetched: the page shows first frames
        return False
    video, poster = store.root / file_name, store.root / poster_name(file_name)
    try:
        if poster.is_file() and poster.stat().st_mtime >= video.stat().st_mtime:
            return True
        data = _first_frame(video)
        if data is None:
            return False
        store.check_no_link(poster)
        poster.parent.mkdir(parents=True, exist_ok=True)
        temporary = store.temporary("jpg")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(poster)
    except (OSError, UserError):  # a folder that can't be written to, or leads elsewhere: the page does without
        return False
    return True


def _first_frame(video: Path) -> bytes | None:
    """Return the first frame as a JPEG, or None where it can't be decoded."""
    import cv2

    capture: Any = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        found, frame = capture.read()
    finally:
        capture.release()
    if not found:
        return None
    height, width = frame.shape[:2]
    if width > _WIDTH_PX:
        size = (_WIDTH_PX, max(1, round(height * _WIDTH_PX / width)))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return bytes(data) if done else None
