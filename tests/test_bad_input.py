"""Bad input from the command line: one clear sentence and exit code 2 before any work, or one warning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import run_python

from svd_batch import cli as command_line
from svd_batch.records import SweepCell

Job = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("no_torch")

CELL_NUMBERS = [field.name for field in dataclasses.fields(SweepCell) if field.type in ("int", "float")]
NUMBERS = [
    *(f"generation.{name}" for name in CELL_NUMBERS),
    *(f"sweep.{name}" for name in CELL_NUMBERS),
    *(f"model.{name}" for name in ("num_frames", "height", "width")),
    *(f"backend.{name}" for name in ("num_cpus", "torch_threads")),
    *("video.quality", "video.playback_fps", "seed", "num_seeds", "seeds", "max_failed_fraction"),
]
NOT_FINITE = ["nan", "inf", "-inf"]


@pytest.fixture
def job(
    tmp_path: Path, tiny: list[str], pets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Job:
    """`svd-batch VERB` in this process on the tiny checkpoint, the three pictures and the serial backend."""
    monkeypatch.chdir(tmp_path)

    def call(verb: str, *overrides: str, manifest: Path = pets) -> tuple[int, str, str]:
        code = command_line.main([verb, "backend=serial", *tiny, f"manifest={manifest}", "output=out", *overrides])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def assert_refused(result: tuple[int, str, str], *words: str) -> None:
    """Assert that nothing but one sentence came of a command."""
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words), err
    assert not Path("out").exists()


# --- NaN and infinity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [(key, NOT_FINITE[i % 3]) for i, key in enumerate(NUMBERS)], ids=str)
def test_no_number_on_the_command_line_may_be_nan_or_infinite(key: str, value: str, job: Job) -> None:
    assert_refused(job("plan", f"{key}={value}"), key, "is not accepted")


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("noise_aug_strength: [0.02, {}]", "sweep.noise_aug_strength"),
        ("motion_bucket_id: {}", "sweep.motion_bucket_id"),
        ("cells: [{{max_guidance_scale: {}}}]", "sweep.cells[0].max_guidance_scale"),
    ],
)
def test_no_number_in_a_sweep_file_may_be_nan_or_infinite(
    text: str, key: str, value: str, job: Job, tmp_path: Path
) -> None:
    (tmp_path / "conf/sweep").mkdir(parents=True)
    (tmp_path / "conf/sweep/mine.yaml").write_text(text.format(value))
    assert_refused(job("run", "--config-dir", str(tmp_path / "conf"), "+sweep=mine"), key, "is not accepted")


@pytest.mark.parametrize("column", CELL_NUMBERS)
def test_no_number_in_a_manifest_may_be_nan_or_infinite(column: str, job: Job, tmp_path: Path, pictures: Path) -> None:
    names = [str(pictures / "a.png"), str(pictures / "b.jpg")]
    value = (math.nan, math.inf, -math.inf)[CELL_NUMBERS.index(column) % 3]
    pq.write_table(pa.table({"image_path": names, column: [1.0, value]}), tmp_path / "m.parquet")
    refused = job("run", manifest=tmp_path / "m.parquet")
    assert_refused(refused, f"manifest m.parquet, row 1, column {column}: {value}", "is not accepted")


# --- ranges, wherever the value comes from ------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["generation.motion_bucket_id=-1"], ["generation.motion_bucket_id: -1", "from 0 to"]),
        (["sweep.motion_bucket_id=[20,-1]"], ["sweep.motion_bucket_id: -1", "from 0 to"]),
        (["sweep.motion_bucket_id=-20:20:20"], ["sweep.motion_bucket_id: -20", "from 0 to"]),
        (["sweep.cells=[{motion_bucket_id:-1}]"], ["sweep.cells[0].motion_bucket_id: -1"]),
        (["generation.min_guidance_scale=4"], ["min_guidance_scale=4 is above max_guidance_scale=3"]),
        (["sweep.min_guidance_scale=[1,4]"], ["min_guidance_scale=4 is above max_guidance_scale=3"]),
        (["sweep.cells=[{min_guidance_scale:4}]"], ["sweep.cells[0]: min_guidance_scale=4 is above"]),
        (["model.height=33"], ["model.height: 33 is not accepted; give a multiple of 8"]),
        (["model.width=8200"], ["model.width: 8200 is not accepted"]),
        (["model.num_frames=1"], ["model.num_frames: 1 is not accepted; give a whole number from 2 to 1024"]),
        (["model.num_frames=100000"], ["model.num_frames: 100000 is not accepted"]),
        (["generation.decode_chunk_size=0"], ["generation.decode_chunk_size: 0 is not accepted"]),
        (["generation.noise_aug_strength=-0.1"], ["generation.noise_aug_strength: -0.1 is not accepted"]),
        (["model.variant=bf16"], ["has no weights of variant 'bf16'; it has fp16"]),
        (["model.variant=null"], ["has no weights of variant None; it has fp16"]),
    ],
)
def test_a_value_out_of_range_is_refused(verb: str, overrides: list[str], words: list[str], job: Job) -> None:
    assert_refused(job(verb, "generation.max_guidance_scale=3", *overrides), *words)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"motion_bucket_id": [5, -1]}, ["row 1, column motion_bucket_id: -1 is not accepted"]),
        ({"motion_bucket_id": [5, 1024]}, ["row 1, column motion_bucket_id: 1024 is not accepted"]),
        ({"min_guidance_scale": [1.0, 9.0]}, ["min_guidance_scale=9 is above max_guidance_scale="]),
        ({"max_guidance_scale": [1.0, 0.5]}, ["min_guidance_scale=1 is above max_guidance_scale=0.5"]),
    ],
)
def test_a_column_out_of_range_is_refused(
    columns: dict[str, list[float]], words: list[str], job: Job, tmp_path: Path, pictures: Path
) -> None:
    names = [str(pictures / "a.png"), str(pictures / "b.jpg")]
    pq.write_table(pa.table({"image_path": names, **columns}), tmp_path / "m.parquet")
    assert_refused(job("run", manifest=tmp_path / "m.parquet"), *words)


# --- warnings ----------------------------------------------------------------------------------------------------

TOO_LARGE = "300 is above 255, the largest that Stable Video Diffusion was trained on"
FRAMES = "warning: model.num_frames: 2 frames, and tiny was trained on videos of 3; expect worse ones\n"


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize(
    "override",
    [
        "generation.motion_bucket_id=300",
        "sweep.motion_bucket_id=[20,300]",
        "sweep.cells=[{motion_bucket_id:300},{motion_bucket_id:290}]",
    ],
)
def test_more_motion_than_was_ever_trained_is_warned_of_once(verb: str, override: str, job: Job) -> None:
    code, _, err = job(verb, override, "generation.num_inference_steps=1")
    assert code == 0
    assert err.count(f"warning: motion_bucket_id: {TOO_LARGE}") == err.count("is above 255") == 1


def test_a_column_with_more_motion_is_warned_of_once(job: Job, tmp_path: Path, pictures: Path) -> None:
    names = [str(pictures / "a.png"), str(pictures / "b.jpg")]
    pq.write_table(pa.table({"image_path": names, "motion_bucket_id": [300, 299]}), tmp_path / "m.parquet")
    _, _, err = job("plan", "generation.motion_bucket_id=400", manifest=tmp_path / "m.parquet")
    assert err == f"warning: manifest column motion_bucket_id: {TOO_LARGE}; more need not mean more motion\n"


@pytest.mark.parametrize("override", ["generation.motion_bucket_id=255", "sweep.motion_bucket_id=[0,255]"])
def test_motion_within_the_trained_range_is_not_warned_of(override: str, job: Job) -> None:
    assert job("plan", override)[2] == ""


def test_frames_that_the_checkpoint_was_not_trained_on_are_warned_of_once_and_made(job: Job) -> None:
    assert job("plan", "model.num_frames=2")[2] == FRAMES
    code, _, err = job("run", "model.num_frames=2")
    assert (code, err.count(FRAMES)) == (0, 1)
    assert job("run", "model.num_frames=2")[2] == ""  # nothing to do, nothing to warn of


# --- before any work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_broken_checkpoint_is_one_sentence_before_torch_or_ray_are_even_imported(
    verb: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    weights = tiny_checkpoint / "vae/diffusion_pytorch_model.fp16.safetensors"
    code = (
        "import sys; from svd_batch import cli\n"
        "assert cli.main(sys.argv[1:]) == 2\n"
        "assert not {'torch', 'ray', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    try:
        done = run_python(code, verb, f"model.id={tiny_checkpoint}", f"output={tmp_path / 'out'}")
    finally:
        weights.write_bytes(data)
    assert done.stderr == f"error: model.id: {weights} is truncated or no safetensors file; fetch it again\n"
    assert not (tmp_path / "out").exists()
