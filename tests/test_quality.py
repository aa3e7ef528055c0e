"""Presets of approximations: one and the same in conf/ and in Python, and what a cell says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from builders import CELL, make_cell

from svd_batch.cli import conf_dir
from svd_batch.quality import PRESETS, approximations, in_quality, quality_of
from svd_batch.sweep import check_cell


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_same_in_conf_and_in_python(name: str) -> None:
    text = (conf_dir() / f"quality/{name}.yaml").read_text()
    assert (yaml.safe_load(text) or {}) == PRESETS[name]
    assert "# @package generation" in text


def test_there_are_no_other_presets_in_conf() -> None:
    assert {file.stem for file in (conf_dir() / "quality").iterdir()} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_cell_in_a_quality_amounts_to_it_and_is_valid(name: str) -> None:
    cell = in_quality(CELL, name)
    assert quality_of(cell) == name
    assert check_cell(cell) is cell
    assert cell.motion_bucket_id == CELL.motion_bucket_id


def test_only_final_is_exact() -> None:
    assert [name for name in PRESETS if approximations(in_quality(CELL, name)) is None] == ["final"]


@pytest.mark.parametrize(
    ("changes", "label", "quality"),
    [
        ({}, None, "final"),
        ({"num_inference_steps": 4, "motion_bucket_id": 1}, None, "final"),
        ({"sampler": "ays10", "num_inference_steps": 10}, "ays10", "custom"),
        ({"deep_cache_interval": 2}, "deep_cache_interval=2", "custom"),
        ({"guidance_sigma_min": 0.25}, "guidance in 0.25 <= sigma", "custom"),
        ({"guidance_sigma_max": 50.0}, "guidance in sigma <= 50", "custom"),
        (
            {
                "sampler": "ays10",
                "num_inference_steps": 10,
                "deep_cache_interval": 3,
                "guidance_sigma_min": 1.0,
                "guidance_sigma_max": 30.0,
            },
            "ays10, deep_cache_interval=3, guidance in 1 <= sigma <= 30",
            "custom",
        ),
    ],
)
def test_a_label_names_each_approximation(changes: dict[str, Any], label: str | None, quality: str) -> None:
    cell = make_cell(**changes)
    assert (approximations(cell), quality_of(cell)) == (label, quality)
