"""What `plan` says of computing, memory, hours and money, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import engine_without_torch, run_here

from svd_batch import cli
from svd_batch.config import Config
from svd_batch.errors import UserError
from svd_batch.gpus import EFFICIENCY, GPUS, video_seconds
from svd_batch.outlook import flops


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What `plan` prints for SVD-XT, of which this machine has nothing, while the hub can't be reached."""
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("plan")
    words = ["plan", "+sweep=motion_fine", "model=svd_xt", f"output={folder / 'out'}", "price_per_gpu_hour={H100: 2.5}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        return run_here(*words).out.splitlines()


def line(lines: list[str], start: str) -> str:
    return next(text for text in lines if text.strip().startswith(start))


def test_plan_works_for_a_model_on_a_hub_that_can_not_be_reached(lines: list[str]) -> None:
    assert lines[0].startswith("4 pictures × 25 cells = 100 videos with svd_xt")
    assert "the model's revision is unknown" in line(lines, "note:")


def test_plan_tells_the_flops_of_a_video_and_of_the_job(lines: list[str]) -> None:
    assert line(lines, "compute:").split()[1:3] == ["4.02", "PFLOP"]
    assert "402 PFLOP in all" in line(lines, "compute:")


def test_plan_tells_the_peak_memory_of_every_profile_at_the_chunk_that_is_asked_for(lines: list[str]) -> None:
    said = line(lines, "memory:")
    assert [name for name in ("fast", "balanced", "low", "minimal") if f"{name} " in said] == said.split()[1::3][:4]
    assert "at decode_chunk_size=8" in said


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_plan_tells_the_hours_of_each_named_gpu_and_a_profile_that_fits_it(gpu: Any, lines: list[str]) -> None:
    said = line(lines, gpu.name)
    hours, seconds = float(said.split()[1]), float(said.split("(")[1].split()[0])
    assert hours == pytest.approx(100 * seconds / 3600, abs=0.06)
    assert seconds == pytest.approx(video_seconds(4.02e15, gpu), abs=1)
    assert f"fits its {gpu.memory_gib} GiB" in said


def test_plan_tells_money_where_a_price_is_given(lines: list[str]) -> None:
    hours = float(line(lines, "H100").split()[1])
    assert f", {2.5 * video_seconds(4.0242e15, GPUS[-1]) * 100 / 3600:.2f} at 2.5 an hour" in line(lines, "H100")
    assert hours > 0
    assert "an hour" not in line(lines, "A100")


def test_plan_says_that_its_efficiency_is_an_assumption(lines: list[str]) -> None:
    assert f"an assumed {EFFICIENCY:.0%} of the makers' peak" in line(lines, "GPU hours:")


def test_plan_for_float32_names_this_machines_profiles_and_no_gpu(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *tiny, f"output={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "on this CPU" in said
    assert "low" not in line(said.splitlines(), "memory:")
    assert "not estimated for float32" in said
    assert "RTX4090" not in said


def test_a_finished_job_has_no_outlook(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("svd_batch.stages._make_engine", engine_without_torch)
    words = [*tiny, f"output={tmp_path / 'out'}", "backend=serial", "check_images=none"]
    assert cli.main(["run", *words]) == 0
    capsys.readouterr()
    assert cli.main(["plan", *words]) == 0
    assert "compute:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prices", "why"),
    [
        ({"H1000": 2.5}, "each name one of L4, RTX4090, A100, H100"),
        (2.5, "give {NAME: PRICE}"),
        ({"H100": -1}, r"price_per_gpu_hour\.H100: -1 is not accepted"),
    ],
)
def test_a_price_that_is_none_is_refused(prices: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        Config(price_per_gpu_hour=prices)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_gpu_has_its_makers_page_as_a_source(gpu: Any) -> None:
    assert "nvidia.com/" in gpu.source


@pytest.mark.parametrize(
    ("number", "text"), [(4.02e15, "4.02 PFLOP"), (8e8, "0.8 GFLOP"), (1.536e12, "1.54 TFLOP"), (4.1e19, "41 EFLOP")]
)
def test_flops_are_written_as_a_person_reads_them(number: float, text: str) -> None:
    assert flops(number) == text
