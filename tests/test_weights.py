"""Weights that aren't the ones of their configs are found before any is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from svd_batch.checkpoint import bundled_checkpoint, check_folder
from svd_batch.engine.weights import check_weights
from svd_batch.errors import UserError


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))


def change(file: Path, **values: Any) -> None:
    """Change some values of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_whole_checkpoints_pass(tiny_checkpoint: Path) -> None:
    for folder in (tiny_checkpoint, bundled_checkpoint()):
        check_weights(folder, "fp16")


@pytest.mark.parametrize(
    ("part", "values", "missing"),
    [
        ("unet", {"layers_per_block": 2}, "down_blocks.0.resnets.1."),
        ("vae", {"layers_per_block": 2}, "encoder.down_blocks.0.resnets.1."),
        ("image_encoder", {"intermediate_size": 128}, "fc1.weight is 64 x 32 and should be 128 x 32"),
    ],
)
def test_a_weight_that_only_the_whole_model_tells_of_is_missed(
    part: str, values: dict[str, Any], missing: str, folder: Path
) -> None:
    change(folder / part / "config.json", **values)
    check_folder(folder, "fp16")  # its few telling tensors don't show it
    with pytest.raises(UserError, match="don't fit its config.json") as caught:
        check_weights(folder, "fp16")
    assert missing in str(caught.value)


def test_a_config_from_which_nothing_can_be_built_is_named(folder: Path) -> None:
    change(folder / "unet/config.json", down_block_types=["Nonsense", "Nonsense"])
    with pytest.raises(UserError, match="no unet can be built from .*unet/config.json"):
        check_weights(folder, "fp16")
