"""Small real things that the tests share: cells, records, pictures, manifests and finished output folders."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from svd_batch import dataset, ids
from svd_batch.config import ModelConfig, VideoConfig
from svd_batch.records import CELL_FIELDS, FailureRecord, ImageRecord, SweepCell, VideoRecord
from svd_batch.settings import GenerateSettings
from svd_batch.store import Store, file_sha256
from svd_batch.video import suffix, write_video

CELL = SweepCell(
    motion_bucket_id=127,
    noise_aug_strength=0.02,
    fps=7,
    num_inference_steps=25,
    min_guidance_scale=1.0,
    max_guidance_scale=3.0,
    decode_chunk_size=8,
)


# How a camera stores an upright picture for each value of EXIF's orientation (TIFF 6.0, tag 274).
STORED: dict[int, Callable[[Any], Any]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p.transpose(1, 0, 2), 2),
    8: lambda p: np.rot90(p, -1),
}


def make_cell(**changes: Any) -> SweepCell:
    """Return the default cell with some fields changed."""
    return dataclasses.replace(CELL, **changes)


def make_image(image_id: str = "cat", **changes: Any) -> ImageRecord:
    """Return an image whose file need not exist."""
    return dataclasses.replace(ImageRecord(image_id, f"{image_id}.png", f"/pictures/{image_id}.png"), **changes)


def make_record(video_id: str = "ab" * 10, image_id: str = "cat", **changes: Any) -> VideoRecord:
    """Return a plausible record of a video that need not exist."""
    record = VideoRecord(
        file_name=ids.video_path(video_id, "mp4"),
        video_id=video_id,
        image_id=image_id,
        image_path=f"{image_id}.png",
        image_sha256="0" * 64,
        **dataclasses.asdict(CELL),
        playback_fps=7,
        num_frames=4,
        height=32,
        width=48,
        seed=11,
        replicate=0,
        model_id="pocket",
        model_revision="f" * 40,
        dtype="float32",
        fingerprint="0123456789ab",
        num_bytes=1000,
        video_sha256="1" * 64,
        load_s=0.01,
        generate_s=1.5,
        write_s=0.02,
        condition_s=0.1,
        denoise_s=1.1,
        decode_s=0.3,
        encode_s=0.015,
        commit_s=0.005,
        peak_memory_bytes=123456,
        device_name="cpu",
        torch_threads=2,
        batch_size=1,
        memory_profile="fast",
        diffusers_version="0.39.0",
        torch_version="2.13.0",
        svd_batch_version="0.1.0",
        created_at="2026-01-02T03:04:05.678+00:00",
    )
    return dataclasses.replace(record, **changes)


def make_failure(image_id: str = "cat", **changes: Any) -> FailureRecord:
    """Return the failure of an image to load."""
    failure = FailureRecord(
        image_id=image_id,
        image_path=f"{image_id}.png",
        video_id=None,
        stage="load",
        error_type="ItemError",
        error_message="no such file",
        attempts=1,
        created_at="2026-01-02T03:04:05.678+00:00",
    )
    return dataclasses.replace(failure, **changes)


def make_frames(num_frames: int = 4, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """Return a smooth clip (T, H, W, 3) uint8 in which everything moves."""
    t, y, x = np.meshgrid(np.arange(num_frames), np.arange(height), np.arange(width), indexing="ij")
    red, green, blue = 40 * t + 3 * x, 5 * y + 25 * t, 2 * (x + y) + 50 * t
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def picture_bytes(kind: str = "PNG", size: tuple[int, int] = (24, 16), seed: int = 0, **options: Any) -> bytes:
    """Return the file bytes of a noisy RGB picture of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), kind, **options)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """Write a Parquet file of some columns and return its path."""
    pq.write_table(pa.table(columns), path, **options)
    return path


def commit_video(
    store: Store,
    image_id: str = "cat",
    *,
    cell: SweepCell = CELL,
    config: VideoConfig | None = None,
    frames: NDArray[np.uint8] | None = None,
    **changes: Any,
) -> VideoRecord:
    """Encode a real clip, commit it and return its record."""
    config = config or VideoConfig()
    frames = make_frames() if frames is None else frames
    seed, replicate = changes.get("seed", 11), changes.get("replicate", 0)
    video_id = ids.video_id(image_id, cell, seed, {"replicate": replicate})
    temporary = store.temporary(suffix(config.codec))
    write_video(temporary, frames, cell.fps, config)
    written: dict[str, Any] = {
        "file_name": ids.video_path(video_id, suffix(config.codec)),
        **dataclasses.asdict(cell),
        "playback_fps": cell.fps,
        "num_frames": frames.shape[0],
        "height": frames.shape[1],
        "width": frames.shape[2],
        "num_bytes": temporary.stat().st_size,
        "video_sha256": file_sha256(temporary),
    }
    record = make_record(video_id, image_id, **{**written, **changes})
    store.place(temporary, record.file_name)
    store.commit(record)
    return record


def make_store(root: Path) -> Store:
    """Return a new, empty output folder."""
    store = Store(root)
    store.create()
    store.write_run({"format": 1, "settings": {}, "runs": []})
    return store


def make_output(
    root: Path,
    *,
    image_ids: Sequence[str] = ("cat", "dog"),
    cells: Sequence[SweepCell] = (CELL,),
    carried: dict[str, Any] | None = None,
    config: VideoConfig | None = None,
) -> Store:
    """Return a finished output folder with one real clip for each image and cell, its tables and its card."""
    store = make_store(root)
    for image_id in image_ids:
        for cell in cells:
            commit_video(store, image_id, cell=cell, config=config)
    dataset.save_images(store, pa.table({"image_id": list(image_ids), **(carried or {})}))
    totals = dataset.compact(store)
    dataset.write_card(store, ModelConfig(), "f" * 40, totals.num_videos, len(image_ids))
    return store


def cell_values(cell: SweepCell) -> dict[str, Any]:
    """Return a cell as a mapping."""
    return {name: getattr(cell, name) for name in CELL_FIELDS}


def without_torch(output: Path, video_s: float) -> dict[str, str]:
    """Return an environment where all is real but the engine: the crash test's own takes `video_s` seconds a video.

    For tests of what surrounds an engine, in processes of their own: importing torch and diffusers takes each ten.
    """
    from crash.settings import VARIABLE, Settings

    scripts = Path(__file__).resolve().parent.parent / "scripts"
    path = [str(scripts / "crash" / "site"), str(scripts), str(scripts.parent), os.environ.get("PYTHONPATH", "")]
    settings = Settings(str(output), str(output.with_suffix(".events")), True, video_s * 1000)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), VARIABLE: settings.to_text()}


def engine_without_torch(settings: GenerateSettings) -> Any:
    """Return such an engine for a run in this process, in place of what `stages._make_engine` returns."""
    from crash.engine import Engine
    from crash.settings import VARIABLE, Settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, Settings("", "", True).to_text())
        return Engine(None, settings.model)


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run some code in a fresh interpreter that must succeed, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done


class Printed(NamedTuple):
    """What a command printed."""

    out: str
    err: str


def run_here(*arguments: str) -> Printed:
    """Run a command in this process, which must succeed, and return what it printed: for fixtures of a whole module."""
    from svd_batch import cli

    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2)]
        stack.enter_context(redirect_stdout(files[0]))
        stack.enter_context(redirect_stderr(files[1]))
        for descriptor, file in enumerate(files, 1):  # where a job's lines go while everybody else's are logged
            before = os.dup(descriptor)
            os.dup2(file.fileno(), descriptor)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, descriptor)
        code = cli.main(arguments)
        texts = []
        for file in files:
            file.seek(0)
            texts.append(file.read())
    assert code == 0, texts
    return Printed(*texts)


INTERRUPTED = """
import os, sys
from svd_batch.cli import main
from svd_batch.console import Progress

update, number, arguments = Progress.update, int(sys.argv[1]), sys.argv[2:]

def update_and_interrupt(self, **options):
    update(self, **options)
    os.kill(os.getpid(), number)

Progress.update = update_and_interrupt
sys.exit(main(arguments))
"""


def interrupted(
    arguments: Sequence[str], number: signal.Signals, folder: Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command in a fresh process that gets a signal as soon as its first video is done."""
    command = [sys.executable, "-c", INTERRUPTED, str(int(number)), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **options)
