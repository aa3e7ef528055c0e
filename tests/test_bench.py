"""The bench: what it records, how its sums come about, that both sides make the same pixels, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_cell, make_failure, make_image, make_record
from conftest import tiny_overrides

from svd_batch import cli as command_line
from svd_batch.backends import LoadSettings
from svd_batch.bench.measure import Comparison, Pair, Start, Turn, _made, _Sides, warm_up_unit
from svd_batch.bench.summary import PHASES, lines, summary
from svd_batch.config import Fit, MemoryConfig, ModelConfig, SpeedConfig, VideoConfig
from svd_batch.errors import UserError
from svd_batch.records import PlannedVideo, WorkUnit
from svd_batch.stages import GenerateSettings

TWO_CELLS = "sweep.motion_bucket_id=[20,240]"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, pets: Path) -> SimpleNamespace:
    """A bench in a process of its own: 2 cells, 2 pictures, 2 rounds; with its folder, its JSON and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    bench = ["bench", "bench.rounds=2", "bench.pictures=2", "bench.json=new/times.json", "backend.torch_threads=1"]
    command = [
        sys.executable,
        "-m",
        "svd_batch",
        *bench,
        TWO_CELLS,
        f"manifest={pets}",
        *tiny_overrides(tiny_checkpoint),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads((folder / "new/times.json").read_text())
    return SimpleNamespace(folder=folder, document=document, out=done.stdout, err=done.stderr)


@pytest.fixture
def comparison(measured: SimpleNamespace) -> dict[str, Any]:
    """The one comparison of `measured`."""
    (only,) = measured.document["comparisons"]
    result: dict[str, Any] = only
    return result


def videos(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    return [video for pair in comparison["pairs"] for video in pair["videos"]]


def test_the_ratio_is_the_quotient_of_the_recorded_times(comparison: dict[str, Any]) -> None:
    pairs = comparison["pairs"]
    assert comparison["ratio"] == pytest.approx(sum(p["stock_s"] for p in pairs) / sum(p["ours_s"] for p in pairs))
    assert [p["ratio"] for p in pairs] == pytest.approx([p["stock_s"] / p["ours_s"] for p in pairs])


def test_each_round_has_each_picture_with_its_whole_grid_of_both(comparison: dict[str, Any]) -> None:
    pairs = comparison["pairs"]
    images = list(dict.fromkeys(p["image_id"] for p in pairs))
    assert [(p["round"], p["image_id"]) for p in pairs] == [(r, i) for r in (0, 1) for i in images]
    assert all([v["cell"]["motion_bucket_id"] for v in p["videos"]] == [20, 240] for p in pairs)
    assert comparison["stock"]["num_videos"] == comparison["ours"]["num_videos"] == comparison["num_videos"] == 8


def test_pixels_are_within_the_promise_and_the_worst_video_is_told(comparison: dict[str, Any]) -> None:
    assert comparison["largest_difference"] == max(v["difference"] for v in videos(comparison)) < 1e-4


def test_without_shortcuts_the_pixels_are_stocks_to_the_bit(
    tiny: list[str], pets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "times.json"
    options = ["bench.rounds=1", "bench.pictures=1", f"bench.json={out}", "speed=off", f"manifest={pets}"]
    assert command_line.main(["bench", *options, *tiny]) == 0
    (only,) = json.loads(out.read_text())["comparisons"]
    assert only["shortcuts"] == []
    assert only["largest_difference"] == 0
    assert "shortcuts: none" in capfd.readouterr().out


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_every_part_of_every_video_took_time(side: str, comparison: dict[str, Any]) -> None:
    assert all(video[side][phase] > 0 for video in videos(comparison) for phase in PHASES)


def test_the_parts_of_the_loop_fit_into_its_time(comparison: dict[str, Any]) -> None:
    for pair in comparison["pairs"]:
        assert sum(seconds for video in pair["videos"] for seconds in video["stock"].values()) <= pair["stock_s"]


def test_what_the_engine_computes_fits_into_its_time_though_it_writes_meanwhile(comparison: dict[str, Any]) -> None:
    computed = ("condition", "denoise", "decode")
    for pair in comparison["pairs"]:
        assert sum(video["ours"][phase] for video in pair["videos"] for phase in computed) <= pair["ours_s"]


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_the_breakdown_is_the_mean_over_the_single_times(side: str, comparison: dict[str, Any]) -> None:
    told = comparison[side]["seconds_a_video"]
    for phase in PHASES:
        assert told[phase] == pytest.approx(np.mean([video[side][phase] for video in videos(comparison)]))
    assert told["wall"] == pytest.approx(sum(p[f"{side}_s"] for p in comparison["pairs"]) / 8)


def test_the_file_tells_machine_versions_threads_and_settings(measured: SimpleNamespace) -> None:
    document = measured.document
    assert all(document["machine"][key] for key in ("host", "platform", "num_cores", "device_name"))
    assert all(document["versions"][key] for key in ("python", "torch", "diffusers", "svd_batch"))
    assert document["torch_threads"] == 1
    assert document["settings"]["generation"]["num_inference_steps"] == 2
    assert document["settings"]["video"]["codec"] == "h264"
    assert document["command"].startswith("svd-batch bench bench.rounds=2")


def test_the_printed_table_has_the_files_figures_and_nothing_of_the_libraries(
    measured: SimpleNamespace, comparison: dict[str, Any]
) -> None:
    assert "\n".join(lines(comparison)) in measured.out
    assert f"speed-up: {comparison['ratio']:.2f} of 8 videos each" in measured.out
    assert "all times: new/times.json" in measured.out
    assert all(re.match(r"\d+/16 videos, 0 failed", line) for line in measured.err.splitlines())


def test_the_videos_are_gone_and_the_file_is_all_that_is_left(measured: SimpleNamespace) -> None:
    assert [p.name for p in measured.folder.rglob("*") if p.is_file()] == ["times.json"]


def test_each_measures_the_shortcuts_together_and_then_one_by_one(tiny: list[str], pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "times.json"
    options = ["bench.rounds=1", "bench.pictures=1", f"bench.json={out}", "bench.each=true", f"manifest={pets}"]
    two = ["speed=off", "speed.temporal_conv2d=true", "speed.reuse_conditioning=true"]
    assert command_line.main(["bench", *options, *two, *tiny]) == 0
    comparisons = json.loads(out.read_text())["comparisons"]
    assert [c["shortcuts"] for c in comparisons] == [
        ["temporal_conv2d", "reuse_conditioning"],
        ["temporal_conv2d"],
        ["reuse_conditioning"],
    ]
    assert all(c["ratio"] > 0 for c in comparisons)


# --- the two sides ------------------------------------------------------------------------------------------------


@pytest.fixture
def sides(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[_Sides]:
    """Both models, loaded."""
    model = ModelConfig(id=str(tiny_checkpoint), name="tiny", num_frames=3, height=32, width=32)
    settings = GenerateSettings(
        str(tmp_path), model, "r", MemoryConfig(), VideoConfig(), "f", SpeedConfig(), torch_threads=1
    )
    both = _Sides(settings, LoadSettings(32, 32, Fit.crop))
    yield both
    both.stage.close()


@pytest.fixture
def unit(pictures: Path) -> WorkUnit:
    """Two cells of one picture."""
    cells = [make_cell(num_inference_steps=2, motion_bucket_id=bucket) for bucket in (20, 240)]
    planned = (PlannedVideo(f"{number:020x}", cell, 7, 0) for number, cell in enumerate(cells))
    return WorkUnit(make_image("a", source=str(pictures / "a.png")), tuple(planned))


def test_a_turn_knows_nothing_of_the_picture_from_an_earlier_turn(
    sides: _Sides, unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = sides.stage.engine.pipe._encode_picture
    monkeypatch.setattr(sides.stage.engine.pipe, "_encode_picture", lambda p: encoded.append(len(p)) or encode(p))
    for _ in range(2):
        sides.ours.take(sides.our_turn(unit).records)
    assert encoded == [1, 1]


def test_a_turn_makes_its_videos_again_though_they_were_made_before(sides: _Sides, unit: WorkUnit) -> None:
    first, second = (sides.pair(number, unit) for number in range(2))
    assert not set(first.stock.records) & set(second.stock.records)  # what was read back would have the same times
    assert not set(first.ours.records) & set(second.ours.records)
    assert sides.ours.store.done_ids() == sides.plain.store.done_ids() == set()


def test_both_models_compute_in_one_and_the_same_thread(sides: _Sides, unit: WorkUnit) -> None:
    threads: set[str] = set()
    for owner in (sides.stock.pipe, sides.stage.engine.pipe):
        owner.unet.register_forward_pre_hook(lambda *_: threads.add(threading.current_thread().name))
    sides.pair(0, unit)
    assert len(threads) == 1
    assert threads != {threading.current_thread().name}


def test_a_video_that_fails_ends_the_bench_in_one_sentence() -> None:
    with pytest.raises(UserError, match="bench: generate failed: ValueError: NaN pixels"):
        _made(make_failure(stage="generate", error_type="ValueError", error_message="NaN pixels"))


def test_the_warm_up_has_the_shapes_of_the_grid_in_few_steps() -> None:
    cells = [make_cell(motion_bucket_id=20), make_cell(motion_bucket_id=240), make_cell(motion_bucket_id=240, fps=9)]
    videos = tuple(PlannedVideo(f"{number}", cell, 1, 0) for number, cell in enumerate(cells))
    warm = warm_up_unit(WorkUnit(make_image(), videos)).videos
    assert [v.cell for v in warm] == [dataclasses.replace(cell, num_inference_steps=2) for cell in cells]


def test_a_sweep_over_steps_is_warmed_up_once() -> None:
    cells = [make_cell(num_inference_steps=steps) for steps in (1, 10, 25)]
    videos = tuple(PlannedVideo(f"{number}", cell, 1, 0) for number, cell in enumerate(cells))
    warm = warm_up_unit(WorkUnit(make_image(), videos)).videos
    assert [v.cell.num_inference_steps for v in warm] == [1, 2]


# --- the sums -----------------------------------------------------------------------------------------------------


def made_up(on_gpu: bool = False) -> Comparison:
    """Return two pairs of one video each: stock 6 s and 4 s, of which 1 s and 1 s to commit; ours 3 s and 1 s."""

    def turn(wall_s: float, peak: int) -> Turn:
        return Turn(wall_s, (make_record(commit_s=1.0, peak_memory_bytes=peak),))

    pairs = (
        Pair(0, "cat", turn(6.0, 900), turn(3.0, 800), (1e-6,)),
        Pair(0, "dog", turn(4.0, 950), turn(1.0, 700), (3e-6,)),
    )
    info: Any = None
    return Comparison(info, Start(2.0, 100, 1.0), Start(3.0, 150, 7.0), pairs, on_gpu, 0)


def test_the_ratio_weighs_long_pictures_more_and_the_spread_says_how_they_differ() -> None:
    result = summary(made_up())
    assert result["ratio"] == 10 / 4
    assert result["ratio_spread"] == {"min": 2.0, "median": 3.0, "max": 4.0}
    assert result["largest_difference"] == 3e-6


def test_a_loop_that_does_not_commit_is_compared_without_that_time() -> None:
    assert summary(made_up())["ratio_without_stock_commits"] == 8 / 4


def test_loading_and_warm_up_count_in_the_ratio_of_a_whole_job() -> None:
    assert summary(made_up())["ratio_of_100_videos"] == pytest.approx((2 + 1 + 500) / (3 + 7 + 200))


def test_a_machine_that_was_slowed_by_other_things_is_told() -> None:
    even = made_up()
    even = dataclasses.replace(even, pairs=(even.pairs[0], even.pairs[0]))
    assert any("measure again" in line for line in lines(summary(made_up())))
    assert not any("measure again" in line for line in lines(summary(even)))


def test_a_gpus_peak_leaves_the_other_sides_model_out() -> None:
    result = summary(made_up(on_gpu=True))
    assert (result["stock"]["peak_memory_bytes"], result["ours"]["peak_memory_bytes"]) == (950 - 150, 800 - 100)
    assert "peak GPU memory: 0.00 GiB, 0.00 GiB" in lines(result)


def test_a_cpu_has_no_peak_of_its_own_for_each_side() -> None:
    result = summary(made_up())
    assert (result["stock"]["peak_memory_bytes"], result["ours"]["peak_memory_bytes"]) == (None, None)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("output=here", "output: bench keeps no videos"),
        ("backend.num_actors=2", "backend.num_actors: bench runs in one process"),
        ("backend.address=auto", "backend.address: bench runs in one process"),
        ("bench.rounds=0", "bench.rounds: 0 is not accepted; give a whole number from 1 to 1000"),
        ("bench.pictures=0", "bench.pictures: 0 is not accepted"),
        ("bench.rounds=few", "bench.rounds: 'few' is not accepted; give a whole number"),
        ("bench.each=maybe", "bench.each: 'maybe' is not accepted; give true or false"),
        ("bench.json=''", "bench.json: the empty string is not accepted"),
        ("bench.json=there.json", "bench.json: there.json is there already; give a new file"),
        ("bench.json=there.json/times.json", "bench.json: there.json can't be made"),
        ("bench.round=2", "did you mean bench.rounds?"),
    ],
)
def test_a_bad_argument_is_refused_in_a_sentence(
    override: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    assert command_line.main(["bench", override]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["there.json"]


def test_a_picture_that_does_not_load_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"image_path": ["gone.png"]}), tmp_path / "m.parquet")
    assert command_line.main(["bench", f"manifest={tmp_path}/m.parquet", f"bench.json={tmp_path}/t.json"]) == 2
    assert "error: manifest: gone.png does not load" in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_another_verb_refuses_the_section(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line.main([verb, "bench.rounds=2"]) == 2
    assert capsys.readouterr().err.startswith(f"error: bench: {verb} has no use for this section")
