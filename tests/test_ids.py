"""Ids and seeds: the golden values here are frozen, since outputs in the world are named by them."""

from __future__ import annotations

import dataclasses
import string
from typing import Any

import pytest
from builders import CELL, cell_values, make_cell

from svd_batch import ids
from svd_batch.config import Config, pixel_settings
from svd_batch.records import CELL_FIELDS, EXACT

SETTINGS: dict[str, Any] = {
    "model.id": "pocket",
    "model.revision": "abc",
    "model.dtype": "float32",
    "model.num_frames": 8,
    "model.height": 64,
    "model.width": 96,
    "fit": "crop",
    "video.codec": "h264",
    "video.quality": 6.5,
}


@pytest.mark.parametrize(
    ("found", "frozen"),
    [
        (ids.image_id_of_path("cats/Mümmel 1.jpg"), "600c751a1577244a"),
        (ids.image_id_of_bytes(b"\x89PNG"), "0f4636c78f65d363"),
        (ids.derive_seed(42, "cat", 0), 2713040017),
        (ids.derive_seed(42, "cat", 1), 81146527),
        (ids.video_id("cat", CELL, 42, SETTINGS), "3febe803081ee9d297c2"),
        (ids.fingerprint(SETTINGS), "00325223d2f6"),
    ],
)
def test_ids_and_seeds_never_change_from_one_version_to_the_next(found: str | int, frozen: str | int):
    assert found == frozen


def test_the_order_of_settings_does_not_change_an_id():
    turned = dict(reversed(SETTINGS.items()))
    assert ids.video_id("cat", CELL, 42, turned) == ids.video_id("cat", CELL, 42, SETTINGS)


@pytest.mark.parametrize("name", CELL_FIELDS)
def test_each_field_of_a_cell_changes_the_video_id(name: str):
    value = cell_values(CELL)[name]
    other = make_cell(**{name: "ays10" if isinstance(value, str) else value + 1})
    assert ids.video_id("cat", other, 42, SETTINGS) != ids.video_id("cat", CELL, 42, SETTINGS)


def test_the_approximations_have_no_part_in_the_id_of_an_exact_cell():
    exact = [getattr(CELL, name) for name in EXACT]
    assert exact == list(EXACT.values())  # and so the frozen video_id above, which is older than they are, still stands


@pytest.mark.parametrize("key", pixel_settings(Config(), "abc"))
def test_each_pixel_setting_changes_the_video_id(key: str):
    assert ids.video_id("cat", CELL, 42, {**SETTINGS, key: "other"}) != ids.video_id("cat", CELL, 42, SETTINGS)


@pytest.mark.parametrize(("image_id", "seed"), [("dog", 42), ("cat", 43)])
def test_image_and_seed_change_the_video_id(image_id: str, seed: int):
    assert ids.video_id(image_id, CELL, seed, SETTINGS) != ids.video_id("cat", CELL, 42, SETTINGS)


def test_close_decimals_have_ids_of_their_own():
    cells = [make_cell(noise_aug_strength=v) for v in (0.1, 0.1 + 1e-15, 0.10000001, 0.3, 0.1 + 0.2)]
    assert len({ids.video_id("cat", c, 42, SETTINGS) for c in cells}) == len(cells)


def test_a_seed_knows_nothing_of_cells_but_differs_by_image_replicate_and_base_seed():
    seeds = [ids.derive_seed(b, i, r) for b in (1, 2) for i in ("cat", "dog") for r in (0, 1)]
    assert len(set(seeds)) == 8


def test_seeds_fit_in_32_bits_for_any_base_seed():
    seeds = [ids.derive_seed(base, "cat", r) for base in (0, 42, 2**63 - 1) for r in range(200)]
    assert 0 <= min(seeds) < max(seeds) < 2**32


@pytest.mark.parametrize(
    ("digits", "length"),
    [
        (ids.image_id_of_path("val/test-train.jpg"), 16),
        (ids.image_id_of_bytes(b""), 16),
        (ids.video_id("train", CELL, 0, {}), 20),
        (ids.fingerprint({}), 12),
    ],
)
def test_ids_are_hex_so_that_no_loader_reads_a_split_into_them(digits: str, length: int):
    assert len(digits) == length
    assert set(digits) <= set(string.hexdigits.lower())


def test_a_video_lies_in_a_folder_named_by_its_first_two_digits():
    assert ids.video_path("3febe803081ee9d297c2", "mp4") == "videos/3f/3febe803081ee9d297c2.mp4"


@pytest.mark.parametrize("image_id", ["a", "x" * 512, "../../x", "with space", "猫", "a/b:c*?"])
def test_any_printable_text_is_an_image_id(image_id: str):
    assert ids.is_valid_image_id(image_id)


@pytest.mark.parametrize("image_id", ["", "x" * 513, "a\nb", "a\x00", "\x7f", "a\n"])
def test_empty_overlong_and_control_characters_are_no_image_id(image_id: str):
    assert not ids.is_valid_image_id(image_id)


def test_a_cell_is_hashable_and_ordered_by_its_fields():
    assert make_cell(motion_bucket_id=1) < make_cell(motion_bucket_id=2)
    assert len({CELL, dataclasses.replace(CELL)}) == 1
