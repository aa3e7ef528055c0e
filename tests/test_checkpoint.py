"""Checkpoints: what counts as a whole one, and every way in which the hub can say no."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import Cli
from hub import COMMIT, REPO, Hub, serve

from svd_batch import checkpoint
from svd_batch.config import ModelConfig
from svd_batch.errors import UserError


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))


def refusal(folder: Path, variant: str | None = "fp16") -> str:
    with pytest.raises(UserError) as caught:
        checkpoint.check_folder(folder, variant)
    return str(caught.value)


def test_a_whole_checkpoint_passes(tiny_checkpoint: Path) -> None:
    checkpoint.check_folder(tiny_checkpoint, "fp16")


def test_a_folder_without_an_index_is_named(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    assert "has no model_index.json" in refusal(folder)


def test_another_kind_of_pipeline_is_named(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert "holds a FluxPipeline; give a StableVideoDiffusionPipeline" in refusal(folder)


def test_a_missing_component_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    assert "has no vae/config.json" in refusal(folder)


def test_truncated_weights_are_found_from_the_header(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is truncated or no safetensors file" in refusal(folder)


def test_pickle_weights_alone_are_refused(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.bin"))
    assert "has pickle weights only" in refusal(folder)


def test_a_missing_variant_is_told_with_the_ones_there_are(folder: Path) -> None:
    assert "has no weights of variant None; it has fp16" in refusal(folder, variant=None)


def test_sharded_weights_count_as_their_variant(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16-00001-of-00001.safetensors"))
    checkpoint.check_folder(folder, "fp16")


def test_a_size_that_the_parts_can_not_halve_is_refused_with_the_step(folder: Path) -> None:
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "block_out_channels": [32] * 5}))
    with pytest.raises(UserError, match="model.width: 40 is not accepted by this checkpoint; give a multiple of 32"):
        checkpoint.check_size(folder, ModelConfig(width=40, height=64))


def test_other_weights_have_another_revision_and_a_copy_has_the_same(folder: Path, tiny_checkpoint: Path) -> None:
    def revision(path: Path) -> str:
        return checkpoint.resolve_revision(ModelConfig(id=str(path)))

    assert revision(folder) == revision(tiny_checkpoint)
    weights = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert revision(folder) != revision(tiny_checkpoint)


def test_a_full_disk_while_fetching_is_one_sentence() -> None:
    def download() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="no room on the disk for a/b; free some, or set HF_HOME"):
        checkpoint._from_hub(ModelConfig(id="a/b"), download)


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (401, "GatedRepo", f"{REPO} is gated; accept its licence at https://huggingface.co/{REPO} and set HF_TOKEN"),
        (404, "RepoNotFound", f"the hub has no {REPO}, or it is private"),
        (404, "RevisionNotFound", f"{REPO} has no revision 'v2'"),
    ],
)
def test_a_refusing_hub_is_one_sentence_and_exit_code_2(
    status: int, code: str, sentence: str, cli: Cli, tmp_path: Path
) -> None:
    with serve(Hub(tmp_path, refusal=(status, code))) as hub:
        result = cli("run", f"model.id={REPO}", "model.revision=v2", **hub.environment(tmp_path / "home"))
    assert result.returncode == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_checkpoint_on_the_hub_is_fetched_once_for_two_actors_and_its_commit_is_in_the_table(
    cli: Cli, tmp_path: Path, tiny_checkpoint: Path, tiny: list[str], pets: Path
) -> None:
    overrides = [*tiny, f"model.id={REPO}", f"manifest={pets}", "output=out", "backend.num_actors=2"]
    with serve(Hub(tiny_checkpoint)) as hub:
        result = cli("run", *overrides, **hub.environment(tmp_path / "home"))
    weights = [name for name in hub.downloads if name.endswith(".safetensors")]
    table = pq.read_table(tmp_path / "out/metadata.parquet").to_pylist()
    assert result.returncode == 0, result.stderr
    assert len(weights) == len(set(weights)) == 3
    assert [(row["model_id"], row["model_revision"]) for row in table] == [(REPO, COMMIT)] * 3


def test_a_fetched_checkpoint_works_offline(cli: Cli, tmp_path: Path, tiny_checkpoint: Path, tiny: list[str]) -> None:
    overrides = [*tiny, f"model.id={REPO}", "output=out", "backend=serial"]
    with serve(Hub(tiny_checkpoint)) as hub:
        environment = hub.environment(tmp_path / "home")
        assert cli("run", *overrides, **environment).returncode == 0
    again = cli("run", *overrides, "num_seeds=2", **{**environment, "HF_HUB_OFFLINE": "1"})
    assert again.returncode == 0, again.stderr
    assert "4 done, 4 new" in again.stdout
