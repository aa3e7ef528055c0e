"""Checkpoints of random weights: each size is a stock pipeline with the shapes that it says."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

PUBLISHED_PARAMETERS = {"unet": 1.5246e9, "vae": 97.7e6, "image_encoder": 632e6}
"""Of SVD-XT. Source: https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt"""

SCRIPT = ROOT / "scripts/make_random_checkpoint"
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Script:
    """The script with some arguments, run in this process."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, *arguments])
        code: object = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return call


@pytest.mark.parametrize(
    ("size", "latent_channels", "vae_factor", "num_frames"), [("tiny", 8, 2, 3), ("medium", 4, 8, 14)]
)
def test_the_script_writes_a_checkpoint_that_loads_in_stock_diffusers(
    size: str, latent_channels: int, vae_factor: int, num_frames: int, tmp_path: Path, script: Script
) -> None:
    arguments = [str(tmp_path / size), "--size", size, "--seed", "1"]
    if size == "tiny":
        done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    else:
        done = script(*arguments)
    assert done.returncode == 0, done.stderr
    assert "parameters: vae" in done.stdout
    pipe = StableVideoDiffusionPipeline.from_pretrained(tmp_path / size, variant="fp16", use_safetensors=True)
    assert pipe.vae.config.latent_channels == pipe.unet.config.out_channels == latent_channels
    assert pipe.vae_scale_factor == vae_factor
    assert pipe.unet.config.num_frames == num_frames
    assert pipe.unet.config.cross_attention_dim == pipe.image_encoder.config.projection_dim


def test_medium_is_the_published_architecture_at_a_fifth_of_its_widths() -> None:
    from pocket.architecture import SIZES, build_shapes, count_parameters

    medium, full = (build_shapes(SIZES[size]) for size in ("medium", "full"))
    assert medium.unet.config.down_block_types == full.unet.config.down_block_types
    assert medium.unet.config.up_block_types == full.unet.config.up_block_types
    assert [5 * c for c in medium.unet.config.block_out_channels] == list(full.unet.config.block_out_channels)
    assert set(medium.unet.state_dict()) == set(full.unet.state_dict())
    assert 55e6 < count_parameters(medium)["unet"] < 75e6


def test_full_has_as_many_parameters_as_the_published_checkpoint() -> None:
    from pocket.architecture import SIZES, build_shapes, count_parameters

    pipe = build_shapes(SIZES["full"])
    assert {p.device for p in pipe.unet.parameters()} == {torch.device("meta")}
    assert count_parameters(pipe) == {name: pytest.approx(n, rel=0.01) for name, n in PUBLISHED_PARAMETERS.items()}


def test_a_part_written_in_float16_from_the_start_is_whole(tmp_path: Path) -> None:
    """What `full` does, on the tiny shapes."""
    from pocket import architecture

    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        architecture._save_part_by_part(architecture.build_shapes(architecture.SIZES["tiny"]), seed, tmp_path / folder)
    a, b, c = ((tmp_path / f / "unet/diffusion_pytorch_model.fp16.safetensors").read_bytes() for f in "abc")
    assert a == b != c
    pipe = architecture.load_pipeline(tmp_path / "a")
    picture = Image.new("RGB", (32, 32), "teal")
    video = pipe(picture, height=32, width=32, num_frames=3, num_inference_steps=2, output_type="pt").frames
    assert torch.isfinite(video).all()


def test_no_room_on_the_disk_is_one_sentence(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=9, used=9, free=10**9))
    done = script(str(tmp_path / "full"), "--size", "full")
    assert done.returncode == 2
    assert "4.51 GB are needed, 1.00 GB free" in done.stderr
