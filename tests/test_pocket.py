"""The bundled checkpoint: its parameters move the picture, with the right sign, through the whole job to the table.

The pictures are ones that its training never saw.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from svd_batch import cli as command_line
from svd_batch.checkpoint import bundled_checkpoint
from svd_batch.video import read_frames

PICTURES = ["motorcycle_left", pytest.param("ihc", marks=pytest.mark.slow)]
CELLS = (
    "[{motion_bucket_id: 20},{motion_bucket_id: 127},{motion_bucket_id: 240},"
    "{motion_bucket_id: 127, noise_aug_strength: 1.0},{motion_bucket_id: 127, fps: 14}]"
)
STEPS = "generation.num_inference_steps=12"
"""Half of the usual ones, for time; the parameters do the same."""

Clips = dict[tuple[int, float, int], np.ndarray]
"""Frames by (motion_bucket_id, noise_aug_strength, fps)."""


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    from pocket.data import held_out_pictures

    return held_out_pictures((64, 96))


@pytest.fixture(scope="module")
def clips_of(pictures: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Clips]:
    """The clips of a picture, found through the table of a real run."""

    @cache
    def clips(name: str) -> Clips:
        folder = tmp_path_factory.mktemp("pocket")
        Image.fromarray(pictures[name]).save(folder / f"{name}.png")
        pq.write_table(pa.table({"image_path": [f"{name}.png"]}), folder / "m.parquet")
        overrides = [f"manifest={folder}/m.parquet", f"output={folder}/out", "backend=serial", f"sweep.cells={CELLS}"]
        assert command_line.main(["run", *overrides, "video=ffv1", "video.playback_fps=7", STEPS]) == 0
        rows = pq.read_table(folder / "out/metadata.parquet").to_pylist()
        key = ("motion_bucket_id", "noise_aug_strength", "fps")
        return {tuple(r[k] for k in key): read_frames(folder / "out" / r["file_name"])[0] for r in rows}

    return clips


@pytest.mark.parametrize("name", PICTURES)
def test_motion_rises_with_motion_bucket_id(name: str, clips_of: Callable[[str], Clips]) -> None:
    from pocket.evaluate import motion_px

    slow, middle, fast = (motion_px(clips_of(name)[bucket, 0.02, 7]) for bucket in (20, 127, 240))
    assert slow < middle < fast
    assert fast > 5 * slow


@pytest.mark.parametrize("name", PICTURES)
def test_twice_the_fps_gives_about_half_the_motion_a_frame(name: str, clips_of: Callable[[str], Clips]) -> None:
    from pocket.evaluate import motion_px

    ratio = motion_px(clips_of(name)[127, 0.02, 14]) / motion_px(clips_of(name)[127, 0.02, 7])
    assert 0.3 < ratio < 0.75


@pytest.mark.parametrize("name", PICTURES)
def test_likeness_to_the_picture_falls_with_noise_aug_strength(
    name: str, clips_of: Callable[[str], Clips], pictures: dict[str, np.ndarray]
) -> None:
    from pocket.evaluate import similarity

    clean, noisy = (similarity(clips_of(name)[127, noise, 7][0], pictures[name]) for noise in (0.02, 1.0))
    assert clean > noisy + 0.1
    assert clean > 0.75


def test_the_checkpoint_is_small_and_has_a_card() -> None:
    files = [p for p in bundled_checkpoint().rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 12 * 2**20
    card = (bundled_checkpoint() / "README.md").read_text()
    for word in ("license", "scikit-image", "SSIM", "motion_bucket_id"):
        assert word in card


def test_pocket_never_saw_the_demo_pictures_or_the_ones_kept_for_tests() -> None:
    from pocket.data import HELD_OUT_PHOTOS, TRAIN_PHOTOS

    def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])

    assert len(HELD_OUT_PHOTOS) >= 8
    assert not {p.name for p in TRAIN_PHOTOS} & {"rocket", "astronaut", "coffee", "chelsea", "motorcycle_right"}
    shared = [(a, b) for a in TRAIN_PHOTOS for b in HELD_OUT_PHOTOS if a.file == b.file and overlap(a.box, b.box)]
    assert not shared
