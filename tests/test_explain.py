"""One clear sentence for whatever Hydra refuses: through the real command line and the real conf/."""

from __future__ import annotations

from pathlib import Path

import pytest

from svd_batch.cli import main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command line sets it; this puts it back afterwards


def refusal(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """Return the one line that `plan` says to some overrides that it refuses."""
    code = main(["plan", "check_images=none", *overrides])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    (line,) = printed.err.splitlines()
    assert "Traceback" not in line
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("override", "key", "meant"),
    [
        ("sed=1", "sed", "seed"),
        ("num_seed=1", "num_seed", "num_seeds"),
        ("model.widht=8", "model.widht", "model.width"),
        ("generation.motion_bucket=5", "generation.motion_bucket", "generation.motion_bucket_id"),
        ("video.qualty=5", "video.qualty", "video.quality"),
        ("backend.num_actor=5", "backend.num_actor", "backend.num_actors"),
        ("+sweep.fpz=3", "sweep.fpz", "sweep.fps"),
        ("+sed=1", "sed", "seed"),
        ("modle=svd", "modle", "model"),
        ("manifests=a.parquet", "manifests", "manifest"),
    ],
)
def test_an_unknown_key_is_named_with_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], override: str, key: str, meant: str
):
    assert refusal(capsys, override) == f"unknown key {key}; did you mean {meant}?"


@pytest.mark.parametrize("override", ["+zzzzzz=1", "zzzzzz=1"])
def test_a_key_that_is_like_no_other_leads_to_the_help(capsys: pytest.CaptureFixture[str], override: str):
    assert refusal(capsys, override) == "unknown key zzzzzz; `run --help` and `run --cfg job` show the keys"


@pytest.mark.parametrize(
    ("override", "group", "option", "meant"),
    [
        ("model=svdxt", "model", "svdxt", "svd_xt"),
        ("+sweep=moton", "sweep", "moton", "motion"),
        ("video=h265", "video", "h265", "h264"),
        ("backend=rey", "backend", "rey", "ray"),
        ("memory=slow", "memory", "slow", "low"),
    ],
)
def test_an_unknown_option_is_named_with_the_one_that_was_meant_and_all_there_are(
    capsys: pytest.CaptureFixture[str], override: str, group: str, option: str, meant: str
):
    found = refusal(capsys, override)
    assert found.startswith(f"{group}={option} is not there; did you mean {meant}?")
    assert "There are " in found


def test_an_option_that_is_like_no_other_is_answered_with_all_there_are(capsys: pytest.CaptureFixture[str]):
    found = refusal(capsys, "model=zzzzzz")
    assert found == "model=zzzzzz is not there; there are pocket, svd, svd_xt, svd_xt_1_1"


def test_an_unknown_group_is_answered_with_the_groups_or_keys(capsys: pytest.CaptureFixture[str]):
    assert refusal(capsys, "models=svd") == "unknown key models; did you mean model?"


@pytest.mark.parametrize("override", ["sweep=motion", "sweep=motion_fine"])
def test_a_sweep_without_its_plus_is_told_how_to_write_it(capsys: pytest.CaptureFixture[str], override: str):
    found = refusal(capsys, override)
    assert "write +sweep=NAME, one of fps, guidance, motion," in found


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=abc", "seed: 'abc' is not accepted; give a whole number"),
        ("seed=1.5", "seed: '1.5' is not accepted; give a whole number"),
        ("generation.fps=x", "generation.fps: 'x' is not accepted; give a whole number"),
        ("generation.noise_aug_strength=x", "generation.noise_aug_strength: 'x' is not accepted; give a number"),
        ("model.num_frames=2.5", "model.num_frames: '2.5' is not accepted; give a whole number"),
        ("verbose=maybe", "verbose: 'maybe' is not accepted; give true or false"),
        ("fit=zoom", "fit: 'zoom' is not accepted; give one of crop, pad, stretch"),
        ("video.codec=mp5", "video.codec: 'mp5' is not accepted; give one of h264, gif, webp, ffv1"),
        ("model.dtype=int8", "model.dtype: 'int8' is not accepted; give one of float32, float16, bfloat16"),
        ("check_images=some", "check_images: 'some' is not accepted; give one of none, sample, all"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_key_and_what_is_accepted(
    capsys: pytest.CaptureFixture[str], override: str, sentence: str
):
    assert refusal(capsys, override) == sentence


@pytest.mark.parametrize(
    ("override", "begins"),
    [
        ("seed=-1", "seed: -1 is not accepted"),
        ("seed=null", "seed: "),
        ("model.height=9", "model.height: 9 is not accepted"),
        ("generation.fps=0", "generation.fps: 0 is not accepted"),
        ("sweep.fps=[5,5]", "sweep.fps: the value 5 is there twice"),
        ("sweep.fps=[]", "sweep.fps: the axis is empty"),
        ("sweep.fps=5:9:3", "sweep.fps: '5:9:3' steps over its stop"),
        ("sweep.fps=x", "sweep.fps: 'x' is not accepted"),
        ("sweep.cells=[{fpz:1}]", "sweep.cells[0]: unknown key fpz"),
        ("generation.min_guidance_scale=9", "sweep: min_guidance_scale=9 is above"),
        ("manifest=missing.parquet", "manifest: no such file: missing.parquet"),
        ("model.id=no/such/folder", "model.id: no such folder"),
        ("backend.num_actors=0", "backend.num_actors: 0 is not accepted"),
        ("max_failed_fraction=2", "max_failed_fraction: 2.0 is not accepted"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_loads(
    capsys: pytest.CaptureFixture[str], override: str, begins: str
):
    assert refusal(capsys, override).startswith(begins)


@pytest.mark.parametrize("override", ["seed=[", "generation.fps=[1", "seed={", "=5", "sweep.fps=[5,"])
def test_an_override_that_can_not_be_read_is_told_the_form(capsys: pytest.CaptureFixture[str], override: str):
    assert "the form is key=value" in refusal(capsys, override)


def test_adding_a_key_that_is_there_is_told_to_leave_the_plus_out(capsys: pytest.CaptureFixture[str]):
    found = refusal(capsys, "+model.height=64")
    assert "unknown" not in found
    assert "model.height" in found


def test_a_wrong_verb_is_told_the_verbs(capsys: pytest.CaptureFixture[str]):
    assert main(["rum"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown verb 'rum'; the verbs are run, refine, plan,")


def test_one_refusal_does_not_disturb_the_next_plan(capsys: pytest.CaptureFixture[str]):
    refusal(capsys, "sed=1")
    assert main(["plan", "check_images=none"]) == 0


def test_a_refused_plan_leaves_nothing_behind(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    refusal(capsys, "model=svdxt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", ["manifest=pets(1).parquet", "manifest=zoë.parquet", "output=~/pets"])
def test_a_value_that_needs_quotes_is_shown_with_them(capsys: pytest.CaptureFixture[str], override: str):
    key, _, value = override.partition("=")
    assert refusal(capsys, override).endswith(f"""'{key}="{value}"'""")


def test_several_values_without_brackets_are_shown_with_them(capsys: pytest.CaptureFixture[str]):
    assert "'sweep.motion_bucket_id=[1,2]'" in refusal(capsys, "sweep.motion_bucket_id=1,2")


@pytest.mark.parametrize("option", ["--resolve", "--shell-completion"])
def test_options_that_do_not_go_together_are_one_sentence(capsys: pytest.CaptureFixture[str], option: str):
    assert refusal(capsys, option)
