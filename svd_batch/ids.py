"""Content-derived ids, seeds and relative paths. Pure: standard library only.

The same inputs give the same ids on every machine, so retry and resume are one code path.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

from svd_batch.records import EXACT, SweepCell

_SAFE_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]{1,512}")


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value)).hexdigest()


def image_id_of_path(image_path: str) -> str:
    """Return 16 hex digits from the path string as the manifest has it (nothing is opened)."""
    return hashlib.sha256(image_path.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def image_id_of_bytes(data: bytes) -> str:
    """Return 16 hex digits from an embedded picture's bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def is_valid_image_id(image_id: str) -> bool:
    """Return whether a manifest's own image_id is acceptable: 1 to 512 characters, none of them a control character.

    Changes of writing direction count as such, since they make one id look like another.
    """
    return _SAFE_ID.fullmatch(image_id) is not None


def derive_seed(base_seed: int, image_id: str, replicate: int) -> int:
    """Return a seed in 0..2**32-1, equal for all cells of one image so that they share their noise.

    What differs between two cells of an image is then the parameters alone (common random numbers).
    """
    text = b'["seed",%d,%s,%d]' % (base_seed, encode_basestring_ascii(image_id).encode(), replicate)
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


def video_id(image_id: str, cell: SweepCell, seed: int, pixel_settings: Mapping[str, Any]) -> str:
    """Return 20 hex digits from everything that changes pixels, and from nothing else.

    `pixel_settings`: model id, revision, size, frames, dtype, fit and encoding (see `config.pixel_settings`).
    """
    return VideoIds(pixel_settings).digests(image_id, (cell_text(cell),), (seed,))[0].hex()


def cell_text(cell: SweepCell) -> bytes:
    """Return what stands for a cell in the text that is hashed to a video's id."""
    # exact cells keep the ids that they had before there were approximations
    return _json({k: repr(v) for k, v in vars(cell).items() if k not in EXACT or v != EXACT[k]})


class VideoIds:
    """Makes the ids of many videos with the same settings: twenty times as fast as JSON and a hash object for each."""

    def __init__(self, pixel_settings: Mapping[str, Any]) -> None:
        self._begun = hashlib.sha256(b'["video",')
        self._end = b"," + _json(dict(pixel_settings)) + b"]"

    def digests(self, image_id: str, cells: Iterable[bytes], seeds: Sequence[int]) -> list[bytes]:
        """Return ten bytes for each video of an image: cells in order, as `cell_text` gave them, seeds innermost."""
        image, begun, found = encode_basestring_ascii(image_id).encode() + b",", self._begun, []
        ends = [b",%d" % seed + self._end for seed in seeds]
        for cell in cells:
            for end in ends:
                state = begun.copy()
                state.update(image + cell + end)
                found.append(state.digest()[:10])
        return found


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return 12 hex digits that name the settings which one output folder may not mix."""
    return _digest(["fingerprint", dict(settings)])[:12]


def video_path(video_id: str, suffix: str) -> str:
    """Return the path of a video below OUTPUT: `videos/ab/<video_id>.mp4`."""
    return f"videos/{video_id[:2]}/{video_id}.{suffix}"
