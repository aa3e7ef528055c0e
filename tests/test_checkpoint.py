"""Checkpoints: what counts as a whole one, and every way in which the hub can say no."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builders import without_torch
from conftest import PATIENCE_S, Cli, tiny_overrides
from hub import COMMIT, REPO, Hub, serve
from safetensors.numpy import load_file, save_file

from svd_batch import checkpoint
from svd_batch.config import ModelConfig
from svd_batch.errors import UserError

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))


def refusal(folder: Path, variant: str | None = "fp16") -> str:
    with pytest.raises(UserError) as caught:
        checkpoint.check_folder(folder, variant)
    return str(caught.value)


def change(file: Path, **values: Any) -> None:
    """Change some values of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


FILES = [
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "image_encoder/config.json",
    "image_encoder/model.fp16.safetensors",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
]
CONFIGS = [name for name in FILES if name.endswith(".json")]
WEIGHTS = [name for name in FILES if name.endswith(".safetensors")]


def test_a_whole_checkpoint_passes(tiny_checkpoint: Path) -> None:
    assert sorted(str(f.relative_to(tiny_checkpoint)) for f in tiny_checkpoint.rglob("*.*")) == sorted(FILES)
    checkpoint.check_folder(tiny_checkpoint, "fp16")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    weights = name.replace(".fp16.safetensors", "*.safetensors")
    expected = weights.replace("/", " has no ", 1) if name in WEIGHTS else f"has no {name}"
    assert expected in refusal(folder)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(name: str, share: float, folder: Path) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(share * len(data))])
    assert f"{folder / name} is truncated or no " in refusal(folder)


@pytest.mark.parametrize("content", [b"[]", b"null", b"{", b"{}}", b"not JSON", b"\xff\xfe\x00"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_no_json_object_is_named(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    assert f"{folder / name} is truncated or no JSON object" in refusal(folder)


@pytest.mark.parametrize("kind", ["FluxPipeline", "StableDiffusionPipeline", "StableVideoDiffusionPipelineOutput"])
def test_another_kind_of_pipeline_is_named(kind: str, folder: Path) -> None:
    change(folder / "model_index.json", _class_name=kind)
    assert f"holds a {kind}; give a StableVideoDiffusionPipeline" in refusal(folder)


def test_an_index_of_something_else_is_told(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"weight_map": {}}')
    assert "names no _class_name; it is no pipeline's index" in refusal(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder", "scheduler", "feature_extractor"])
@pytest.mark.parametrize("entry", [None, [None, None], "UNet"])
def test_a_part_that_the_index_does_not_list_is_named(part: str, entry: Any, folder: Path) -> None:
    change(folder / "model_index.json", **{part: entry})
    assert f"lists no {part}; the checkpoint is incomplete" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "has a UNet2DConditionModel as unet"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "has a AutoencoderKL as vae"),
        ("image_encoder/config.json", {"architectures": ["CLIPTextModel"]}, "has a CLIPTextModel as image_encoder"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "has a DDIMScheduler as scheduler"),
        ("model_index.json", {"unet": ["diffusers", "UNet2DModel"]}, "has a UNet2DModel as unet"),
    ],
)
def test_a_part_of_another_class_is_named(file: str, values: dict[str, Any], sentence: str, folder: Path) -> None:
    change(folder / file, **values)
    assert f"{folder / file} {sentence}; it must be a " in refusal(folder)


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "'epsilon'; Stable Video Diffusion's UNet"),
        ("unet/config.json", {"block_out_channels": []}, "says block_out_channels=[]"),
        ("unet/config.json", {"block_out_channels": 32}, "says block_out_channels=32"),
        ("unet/config.json", {"num_frames": "25"}, "says num_frames='25'"),
        ("vae/config.json", {"latent_channels": 0}, "says latent_channels=0"),
        ("image_encoder/config.json", {"projection_dim": None}, "says projection_dim=None"),
        ("unet/config.json", {"in_channels": 4}, "says in_channels=4, and twice the VAE's latent_channels makes 16"),
        ("unet/config.json", {"out_channels": 4}, "says out_channels=4, and the VAE's latent_channels makes 8"),
        ("unet/config.json", {"cross_attention_dim": 24}, "says cross_attention_dim=24, and the image encoder's"),
        ("unet/config.json", {"addition_time_embed_dim": 8}, "input_dim=96, and three times addition_time_embed_dim"),
    ],
)
def test_a_config_of_another_model_is_told_with_its_value(
    file: str, values: dict[str, Any], sentence: str, folder: Path
) -> None:
    change(folder / file, **values)
    assert sentence in refusal(folder)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_swapped_with_another_parts_are_told(part: str, folder: Path) -> None:
    other = {"unet": "vae", "vae": "unet"}[part]
    name = "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(folder / other / name, folder / part / name)
    assert f"the weights in {folder / part} don't fit its config.json: " in refusal(folder)


@pytest.mark.parametrize("name", WEIGHTS[:2])
def test_weights_of_another_size_of_the_model_are_told(name: str, folder: Path) -> None:
    shutil.copy(checkpoint.bundled_checkpoint() / name, folder / name)
    assert "don't fit its config.json: " in refusal(folder)


def test_an_image_encoder_of_another_size_is_told(folder: Path) -> None:
    change(folder / "image_encoder/config.json", hidden_size=64)
    assert "patch_embedding.weight is 32 x 3 x 16 x 16 and should be 64 x 3 x 16 x 16" in refusal(folder)


def test_weights_that_are_no_floats_are_told_with_their_type(folder: Path) -> None:
    weights = folder / WEIGHTS[0]
    weights.write_bytes(weights.read_bytes().replace(b'"F16"', b'"I16"'))
    assert "as I16; give weights in one of F64, F32, F16, BF16" in refusal(folder)


def test_a_header_that_contradicts_itself_is_found(folder: Path) -> None:
    weights = folder / WEIGHTS[0]
    weights.write_bytes(weights.read_bytes().replace(b'"F16"', b'"F32"', 1))
    assert "is truncated or no safetensors file" in refusal(folder)


def test_a_page_that_was_saved_in_place_of_the_weights_is_found(folder: Path) -> None:
    (folder / WEIGHTS[0]).write_text("<!doctype html><title>Sign in</title>" * 100)
    assert "is truncated or no safetensors file" in refusal(folder)


def test_a_link_to_weights_that_are_gone_counts_as_missing(folder: Path) -> None:
    weights = folder / WEIGHTS[0]
    weights.unlink()
    weights.symlink_to(folder / "blobs/gone")  # as a hub's cache may be left
    assert "unet has no diffusion_pytorch_model*.safetensors; the checkpoint is incomplete" in refusal(folder)


def test_pickle_weights_alone_are_refused(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.bin"))
    assert "has pickle weights only" in refusal(folder)


def test_a_missing_variant_is_told_with_the_ones_there_are(folder: Path) -> None:
    assert "has no weights of variant None; it has fp16" in refusal(folder, variant=None)
    assert "has no weights of variant 'bf16'; it has fp16" in refusal(folder, variant="bf16")


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The same with the UNet's weights in two files, as diffusers splits large ones."""
    unet = folder / "unet"
    tensors = load_file(unet / "diffusion_pytorch_model.fp16.safetensors")
    (unet / "diffusion_pytorch_model.fp16.safetensors").unlink()
    names = sorted(tensors)
    files = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model.fp16-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, unet / file)
        files.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": files}
    (unet / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    return folder


def test_sharded_weights_count_as_their_variant(sharded: Path) -> None:
    checkpoint.check_folder(sharded, "fp16")


def test_a_missing_shard_is_told_with_its_number(sharded: Path) -> None:
    (sharded / "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors").unlink()
    assert "has 1 of 2 weight files and lacks number 00002" in refusal(sharded)


def test_shards_without_their_index_are_told(sharded: Path) -> None:
    (sharded / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").unlink()
    assert "has no diffusion_pytorch_model.safetensors.index*.json" in refusal(sharded)


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


@dataclass
class Fetched:
    """Commands in one folder with one home, in this order, and what they left there."""

    planned: Done
    """By a machine that knows nothing of the checkpoint."""
    downloads_to_plan: list[str]
    configs_after_plan: list[Path]
    made: Done
    """By two actors."""
    downloads: list[str]
    table: list[dict[str, object]]
    planned_again: Done
    offline: Done
    """More videos, while the hub can't be reached."""


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, pets: Path) -> Fetched:
    folder = tmp_path_factory.mktemp("fetched")
    home = folder / "home"
    frames = "model.num_frames=2"  # and the checkpoint was trained on 3
    overrides = [*tiny_overrides(tiny_checkpoint), f"model.id={REPO}", f"manifest={pets}", "output=out", frames]

    def call(verb: str, *more: str, **environment: str) -> Done:
        command = [sys.executable, "-m", "svd_batch", verb, *overrides, *more]
        return subprocess.run(
            command,
            cwd=folder,
            env={**(without_torch(folder / "out", 0.05) if verb == "run" else os.environ), **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    with serve(Hub(tiny_checkpoint)) as hub:
        environment = hub.environment(home)
        planned = call("plan", **environment)
        to_plan, configs = hub.downloads[:], list(home.rglob("config.json"))
        made = call("run", "backend.num_actors=2", **environment)
        downloads = hub.downloads[len(to_plan) :]
        table = pq.read_table(folder / "out/metadata.parquet").to_pylist() if made.returncode == 0 else []
        planned_again = call("plan", "num_seeds=2", **environment)
    offline = call("run", "num_seeds=2", "backend=serial", **{**environment, "HF_HUB_OFFLINE": "1"})
    return Fetched(planned, to_plan, configs, made, downloads, table, planned_again, offline)


def test_a_checkpoint_on_the_hub_is_fetched_once_for_two_actors_and_its_commit_is_in_the_table(
    fetched: Fetched,
) -> None:
    weights = [name for name in fetched.downloads if name.endswith(".safetensors")]
    assert fetched.made.returncode == 0, fetched.made.stderr
    assert len(weights) == len(set(weights)) == 3
    assert [(row["model_id"], row["model_revision"]) for row in fetched.table] == [(REPO, COMMIT)] * 3


def test_frames_that_a_fetched_checkpoint_was_not_trained_on_are_warned_of_once(fetched: Fetched) -> None:
    assert (fetched.planned.returncode, fetched.planned.stderr) == (0, "")  # not on this machine yet
    for result in (fetched.made, fetched.planned_again):
        assert result.returncode == 0
        assert result.stderr.count("warning: model.num_frames: 2 frames, and tiny was trained on videos of 3") == 1


def test_the_configs_of_a_hubs_checkpoint_are_known_without_its_weights_or_a_trace_in_the_cache(
    fetched: Fetched,
) -> None:
    assert "GFLOP a video" in fetched.planned.stdout
    assert fetched.downloads_to_plan
    assert not [name for name in fetched.downloads_to_plan if name.endswith(".safetensors")]
    assert not fetched.configs_after_plan


def test_a_fetched_checkpoint_works_offline(fetched: Fetched) -> None:
    assert fetched.offline.returncode == 0, fetched.offline.stderr
    assert "3 done, 3 new" in fetched.offline.stdout
