"""Frozen domain records: what flows from a manifest row to a finished video.

Knows nothing of disk layout, Ray, Hydra or torch.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class SweepCell:
    """One point of a sweep: every generation argument of one video, in diffusers' own names."""

    motion_bucket_id: int
    noise_aug_strength: float
    fps: int
    num_inference_steps: int
    min_guidance_scale: float
    max_guidance_scale: float
    decode_chunk_size: int
    # Approximations. Their defaults are exact, and no part of a video_id.
    sampler: str = "euler"
    """euler, or ays10: ten steps at the noise levels of Align Your Steps."""
    guidance_sigma_min: float = 0.0
    guidance_sigma_max: float = 1000.0
    """Guidance applies at steps whose noise level is within these two; SVD's largest is 700."""
    deep_cache_interval: int = 1
    """The UNet's deep features are computed at every so many steps."""


CELL_FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(SweepCell))
CellValue = int | float | str
EXACT: dict[str, CellValue] = {
    f.name: f.default for f in dataclasses.fields(SweepCell) if f.default is not dataclasses.MISSING
}
"""The fields that approximate, with the values at which they don't."""


@dataclass(frozen=True)
class ImageRecord:
    """One valid manifest row: which picture, where it is, and which cell fields the row fixes."""

    image_id: str
    image_path: str | None
    """The path as the manifest has it, an address without secrets; None for an embedded picture without a path."""
    source: str
    """What to open: an absolute path, a URI, or the manifest file that embeds the picture."""
    source_row: int | None = None
    """Row in `source` when the picture is embedded there, else None."""
    bytes_column: str | None = None
    """Column of `source` with the embedded picture: `image_bytes` or `image`."""
    sha256: str | None = None
    """SHA-256 that the bytes must have, where one is on record."""
    fixed: tuple[tuple[str, CellValue], ...] = ()
    """Cell fields that this row fixes, as (name, value) pairs."""


@dataclass(frozen=True)
class PlannedVideo:
    """One video to make of one image."""

    video_id: str
    cell: SweepCell
    seed: int
    replicate: int


@dataclass(frozen=True)
class WorkUnit:
    """One image with some or all of its planned videos: what one actor call receives."""

    image: ImageRecord
    videos: tuple[PlannedVideo, ...]


@dataclass(frozen=True)
class VideoRecord:
    """One committed video: a row of metadata.parquet."""

    file_name: str
    video_id: str
    image_id: str
    image_path: str | None
    image_sha256: str
    motion_bucket_id: int
    noise_aug_strength: float
    fps: int
    """The conditioning value; the model sees fps - 1."""
    playback_fps: int
    """Frames per second of the written file."""
    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    min_guidance_scale: float
    max_guidance_scale: float
    decode_chunk_size: int
    sampler: str = field(default="euler", kw_only=True)
    guidance_sigma_min: float = field(default=0.0, kw_only=True)
    guidance_sigma_max: float = field(default=1000.0, kw_only=True)
    deep_cache_interval: int = field(default=1, kw_only=True)
    approximations: str | None = field(default=None, kw_only=True)
    """What makes the video differ from the exact one; None for nothing."""
    quality: str = field(default="final", kw_only=True)
    """The preset that the cell amounts to: final (exact), preview, draft or custom."""
    seed: int
    """What reproduces the video with stock diffusers: `torch.manual_seed(seed)`."""
    replicate: int
    model_id: str
    model_revision: str | None
    dtype: str
    fingerprint: str
    num_bytes: int
    video_sha256: str
    load_s: float
    generate_s: float
    """Picture to frames: condition_s, denoise_s, decode_s and a little besides."""
    write_s: float
    """Frames to a durable file: encode_s and commit_s."""
    condition_s: float
    """CLIP, VAE encoding and what else comes before the first step."""
    denoise_s: float
    decode_s: float
    encode_s: float
    commit_s: float
    """Decoding the file to check it, hashing and flushing it; writing the record and two renames come after."""
    peak_memory_bytes: int
    device_name: str
    torch_threads: int
    batch_size: int = field(default=1, kw_only=True)
    """Videos that went through the UNet together with this one, itself included."""
    memory_profile: str | None = field(default=None, kw_only=True)
    """The memory profile that made it: after running out of memory not the one that was asked for."""
    diffusers_version: str
    torch_version: str
    svd_batch_version: str
    created_at: str
    """ISO 8601, UTC."""
    started_at: str | None = field(default=None, kw_only=True)
    """When the making of its batch began, for batch_size times generate_s; ISO 8601, UTC."""
    host: str | None = field(default=None, kw_only=True)
    """Name of the machine that made it."""
    metrics_s: float | None = field(default=None, kw_only=True)
    """Measuring the metrics, the image encoder's pass included; beside generate_s and write_s. None for none."""
    embed_s: float | None = field(default=None, kw_only=True)
    """The image encoder's pass alone, in which the engine makes no other video. None for none."""
    metrics_source: str | None = field(default=None, kw_only=True)
    """What they were measured on: the frames before encoding, the file, or mixed. None for none."""
    metrics: dict[str, float | bool] = field(default_factory=dict, kw_only=True, hash=False)
    """Those that were measured, by name; a column each in the table, null where there is none."""


SCORE_COLUMNS = ("refine_metric", "refine_score")
"""Columns that metadata.parquet has beside a VideoRecord's from a folder's first `refine` on."""


@dataclass(frozen=True)
class FailureRecord:
    """One failed item: an image that would not load (no video_id), or a video that would not generate."""

    image_id: str
    image_path: str | None
    video_id: str | None
    stage: str
    """`load`, `generate` or `write`."""
    error_type: str
    error_message: str
    """One line."""
    attempts: int
    created_at: str
    host: str | None = field(default=None, kw_only=True)
    """Name of the machine where it failed."""

    @property
    def item_id(self) -> str:
        """What names this failure: the video where there is one, else the image."""
        return self.video_id or self.image_id


Result = VideoRecord | FailureRecord
"""What becomes of a planned video, or of a picture that has none."""


def to_json(record: Any) -> str:
    """Return a record (nested ones too) as one line of JSON with sorted keys."""
    return _encoder.encode(record)


_encoder = json.JSONEncoder(default=vars, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def flat(record: Any) -> dict[str, Any]:
    """Return a record as a row: its fields, and each metric by its own name in place of `metrics`."""
    row = dict(vars(record))
    metrics = row.pop("metrics", {})
    return {**row, **metrics}


def from_dict(kind: type[T], row: dict[str, Any]) -> T:
    """Return a record of `kind` from a mapping of its fields; keys that it does not know are left out."""
    names = _field_names(kind)  # type: ignore[arg-type]
    return kind(**{k: v for k, v in row.items() if k in names})


@functools.cache
def _field_names(kind: type[Any]) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(kind))


def unit_to_json(unit: WorkUnit) -> str:
    """Return a unit as one line of JSON; cells that several videos share are there once."""
    cells = {cell: number for number, cell in enumerate(dict.fromkeys(video.cell for video in unit.videos))}
    videos = [(v.video_id, cells[v.cell], v.seed, v.replicate) for v in unit.videos]
    return to_json({"image": unit.image, "cells": list(cells), "videos": videos})


def unit_from_json(text: str) -> WorkUnit:
    """Return the WorkUnit that `unit_to_json` wrote."""
    row = json.loads(text)
    image = dict(row["image"], fixed=tuple((str(k), v) for k, v in row["image"]["fixed"]))
    cells = [SweepCell(**cell) for cell in row["cells"]]
    videos = (PlannedVideo(video_id, cells[cell], *rest) for video_id, cell, *rest in row["videos"])
    return WorkUnit(ImageRecord(**image), tuple(videos))
