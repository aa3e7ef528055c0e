"""Target lookup, and the verb `recommend`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_tables import Row, sweep, sweep_table, write_output

from svd_batch import cli as command_line
from svd_batch.analysis import Bound, Recommendation, Target, recommend
from svd_batch.config import Config
from svd_batch.errors import UserError
from svd_batch.records import SweepCell

AXES = {"motion_bucket_id": [20, 127, 240], "noise_aug_strength": [0.02, 0.1]}
METRICS: dict[str, Callable[[Row], Any]] = {
    "motion": lambda row: row["motion_bucket_id"] / 100 * (1 + row["picture"] / 10),
    "likeness": lambda row: 0.95 - row["noise_aug_strength"] - row["motion_bucket_id"] / 1000,
    "flicker": lambda row: row["noise_aug_strength"] / 10,
}
"""Motion 0.2, 1.27, 2.4 (picture 0); likeness 0.91, 0.803, 0.69 at little noise, 0.08 less at more."""


def asked(target: Target, *bounds: Bound, **options: Any) -> Recommendation:
    share = options.pop("share", 0.5)
    options.setdefault("pictures", 5)
    return recommend(sweep(AXES, metrics=METRICS, **options), target, bounds, share=share)


def cell(found: Recommendation) -> tuple[int, float]:
    settings = found.best.cell.settings
    return settings.motion_bucket_id, settings.noise_aug_strength


def test_the_cell_with_the_nearest_median_is_best():
    found = asked(Target("motion", 1.5), Bound("likeness", at_least=0.8))
    assert cell(found) == (127, 0.02)
    assert found.best.expected[0].median == pytest.approx(1.27 * 1.2)
    assert (found.best.num_pictures, found.best.num_keeping, found.best.is_met) == (5, 5, True)


def test_a_cell_that_misses_a_bound_is_not_taken_though_it_is_nearer():
    found = asked(Target("motion", 2.9), Bound("likeness", at_least=0.8))
    assert cell(found) == (127, 0.02)
    assert all(choice.is_met for choice in found.runners_up)


def test_most_and_least_are_as_far_as_the_bounds_allow():
    assert cell(asked(Target("motion", "most"), Bound("likeness", at_least=0.7)))[0] == 127
    assert cell(asked(Target("motion", "least")))[0] == 20
    assert cell(asked(Target("likeness", "most"))) == (20, 0.02)


def test_a_bound_from_above_is_kept():
    found = asked(Target("likeness", 0.7), Bound("flicker", at_most=0.005))
    assert cell(found) == (240, 0.02)


def test_where_no_cell_keeps_the_bound_the_nearest_is_told_with_its_miss():
    found = asked(Target("motion", 2.4), Bound("likeness", at_least=0.95))
    assert cell(found) == (20, 0.02)
    assert not found.best.is_met
    assert found.best.misses == pytest.approx((0.04,))
    assert found.num_pictures_met == 0


def test_two_bounds_that_no_cell_keeps_are_weighed_by_the_spread_of_their_metrics():
    found = asked(Target("motion", 2.4), Bound("likeness", at_least=0.92), Bound("flicker", at_most=0.001))
    assert cell(found) == (20, 0.02)
    assert found.best.misses == pytest.approx((0.01, 0.001))


def test_the_share_of_pictures_that_must_keep_the_bound_decides():
    bound = Bound("motion", at_most=1.6)  # at bucket 127 kept by the pictures 0, 1 and 2 of 5
    assert cell(asked(Target("motion", "most"), bound, share=0.6))[0] == 127
    assert cell(asked(Target("motion", "most"), bound, share=0.61))[0] == 20


def test_each_picture_has_its_own_cell():
    found = asked(Target("motion", 2.4), pictures=12)
    buckets = {p.image_id: found.cells[p.index].settings.motion_bucket_id for p in found.pictures}
    assert buckets["img0000"] == 240
    assert buckets["img0010"] == 127  # 2.54 is nearer than 4.8
    assert found.pictures[10].values == pytest.approx((2.54,))


def test_a_picture_without_a_cell_that_fits_gets_the_least_miss():
    found = asked(Target("motion", 1.0), Bound("motion", at_least=0.21, at_most=None), Bound("likeness", at_least=0.9))
    first, second = found.pictures[:2]
    assert not first.is_met
    assert second.is_met
    assert found.num_pictures_met == 4
    assert max(first.misses) == pytest.approx(0.01)


def test_a_cell_that_most_pictures_lack_is_passed_over_for_all_and_kept_for_those_that_have_it():
    found = asked(
        Target("motion", 2.4), keep=lambda row: row["motion_bucket_id"] != 240 or row["picture"] == 0, pictures=5
    )
    assert cell(found)[0] == 127
    assert found.num_sparse_cells == 2
    assert found.cells[found.pictures[0].index].settings.motion_bucket_id == 240


def test_replicates_count_by_their_mean():
    found = recommend(
        sweep({"fps": [7, 12]}, replicates=2, metrics={"motion": lambda r: r["fps"] + 10 * r["replicate"]}),
        Target("motion", 12),
    )
    assert found.best.cell.settings.fps == 7
    assert found.best.expected[0].median == 12


def test_the_only_cell_is_the_answer():
    assert recommend(sweep({}, metrics=METRICS), Target("motion", 9)).best.index == 0


def test_metrics_that_no_video_has_together_are_refused():
    videos = sweep(
        {"fps": [7, 12]},
        metrics={
            "motion": lambda r: 1.0 if r["fps"] == 7 else None,
            "likeness": lambda r: r["fps"] / 12 if r["fps"] > 7 else None,
        },
    )
    with pytest.raises(UserError, match="no video of pets has values of all of them"):
        recommend(videos, Target("motion", 1), [Bound("likeness", at_least=0.1)])


# --- the verb ---------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return write_output(tmp_path / "pets", sweep_table(AXES, pictures=5, metrics=METRICS))


def test_the_verb_prints_the_best_cell_first(output: Path, capsys: pytest.CaptureFixture[str]):
    assert command_line.main(["recommend", str(output), "--motion", "1.5", "--min-likeness", "0.8"]) == 0
    out = capsys.readouterr().out
    assert "motion nearest to 1.5 px a frame, with likeness at least 0.8 (SSIM); 5 pictures, 6 cells" in out
    best = next(line.split() for line in out.splitlines() if line.startswith("best"))
    assert best[:4] == ["best", "127", "0.02", "1.52"]
    assert " ".join(best[-3:]) == "5 of 5"
    assert "img0003" not in out


def test_per_image_prints_each_picture(output: Path, capsys: pytest.CaptureFixture[str]):
    assert command_line.main(["recommend", str(output), "--target", "motion=most", "--per-image"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("img000") for line in lines) == 5


def test_of_two_folders_of_other_settings_the_better_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, gain in (("svd", 1.0), ("xt", 3.0)):
        metrics = {"motion": lambda row, gain=gain: gain * row["fps"]}
        write_output(tmp_path / name, sweep_table({"fps": [7, 12]}, metrics=metrics, fingerprint=name))
    arguments = ["recommend", str(tmp_path / "svd"), str(tmp_path / "xt"), "--motion", "20"]
    assert command_line.main(arguments) == 0
    out = capsys.readouterr().out
    assert next(line.split()[:3] for line in out.splitlines() if line.startswith("best")) == ["best", "xt", "7"]
    assert "# made in xt" in printed_yaml(arguments, capsys)


def printed_yaml(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert command_line.main([*arguments, "--yaml"]) == 0
    return capsys.readouterr().out


def test_a_miss_is_told_in_words(output: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--motion", "2", "--at-least", "likeness=0.95", "--at-most", "flicker=0.5"]
    assert command_line.main(["recommend", str(output), *arguments]) == 0
    assert (
        "No cell keeps the bounds for 50 % of its pictures; the nearest misses likeness by 0.04 (SSIM):"
        in capsys.readouterr().out
    )


def test_json_is_the_whole_answer(output: Path, capsys: pytest.CaptureFixture[str]):
    assert command_line.main(["recommend", str(output), "--motion", "1.5", "--json", "--per-image"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["best"]["cell"]["settings"]["motion_bucket_id"] == 127
    assert len(answer["pictures"]) == 5


def loaded_cells(folder: Path, text: str) -> tuple[SweepCell, ...]:
    """Return the cells that `+sweep=chosen` makes of a sweep file, by the command line's own composing."""
    from omegaconf import OmegaConf

    (folder / "sweep").mkdir(parents=True)
    (folder / "sweep/chosen.yaml").write_text(text, encoding="utf-8")
    configs: list[Any] = []
    arguments = ["svd-batch run", "--config-dir", str(folder), "+sweep=chosen", "model=svd_xt"]
    command_line._hydra(lambda node: configs.append(OmegaConf.to_object(node)), arguments)
    (config,) = configs
    assert isinstance(config, Config)
    return config.cells()


def printed(capsys: pytest.CaptureFixture[str], output: Path, *arguments: str) -> str:
    assert command_line.main(["recommend", str(output), *arguments]) == 0
    return capsys.readouterr().out


def test_the_yaml_loads_as_a_sweep_of_the_very_cell(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = printed(capsys, output, "--motion", "1.5", "--yaml")
    found = json.loads(printed(capsys, output, "--motion", "1.5", "--json"))
    assert loaded_cells(tmp_path / "conf", text) == (SweepCell(**found["best"]["cell"]["settings"]),)


def test_the_yaml_per_image_loads_as_the_cells_of_all_pictures(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = printed(capsys, output, "--motion", "2", "--yaml", "--per-image")
    found = json.loads(printed(capsys, output, "--motion", "2", "--json", "--per-image"))
    chosen = sorted({p["index"] for p in found["pictures"]})
    assert len(chosen) > 1
    cells = tuple(SweepCell(**found["cells"][index]["settings"]) for index in chosen)
    assert loaded_cells(tmp_path / "conf", text) == cells


def test_odd_numbers_and_words_survive_the_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = sweep_table({"noise_aug_strength": [1e-05]}, metrics=METRICS, sampler="ays10", num_inference_steps=10)
    text = printed(capsys, write_output(tmp_path / "o", table), "--motion", "1", "--yaml")
    (loaded,) = loaded_cells(tmp_path / "conf", text)
    assert (loaded.noise_aug_strength, loaded.sampler, loaded.num_inference_steps) == (1e-05, "ays10", 10)


def test_an_id_with_a_line_break_stays_a_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = sweep_table({"fps": [7]}, pictures=1, metrics=METRICS)
    table = table.set_column(table.column_names.index("image_id"), "image_id", [["a\nfps: 99\u2028fps: 98"]])
    text = printed(capsys, write_output(tmp_path / "o", table), "--motion", "1", "--yaml", "--per-image")
    assert [c["fps"] for c in yaml.safe_load(text)["cells"]] == [7]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "liknes=1"], "--target: unknown metric 'liknes'; did you mean likeness?"),
        (["--at-least", "flcker=1", "--motion", "1"], "--at-least: unknown metric 'flcker'; did you mean flicker?"),
        (["--target", "psnr_last=20"], "measure them first: svd-batch score {output} "),
        (["--motion", "fast"], "--motion: 'fast' is not accepted; give a number, most or least"),
        (["--motion", "nan"], "--motion: 'nan' is not accepted"),
        (["--motion", "1", "--min-likeness", "high"], "--min-likeness: 'high' is not accepted; give a number"),
        (["--motion", "1", "--at-most", "flicker"], "--at-most: 'flicker' is not accepted; give METRIC=VALUE"),
        (["--motion", "1", "--pictures", "0"], "--pictures: 0 is not accepted; give a fraction above 0, up to 1"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    output: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
):
    assert command_line.main(["recommend", str(output), *arguments]) == 2
    error = capsys.readouterr().err
    assert words.format(output=output) in error
    assert len(error.splitlines()) == 1


def test_a_folder_that_is_no_output_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command_line.main(["recommend", str(tmp_path), "--motion", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"error: OUTPUT: {tmp_path} has no metadata.parquet")


def test_an_empty_table_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write_output(tmp_path / "o", sweep_table({}, pictures=0, metrics={}))
    assert command_line.main(["recommend", str(root), "--motion", "1"]) == 2
    assert "has no videos yet" in capsys.readouterr().err
