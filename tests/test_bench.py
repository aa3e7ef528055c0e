"""The bench: what it records, how its sums come about, that both sides make the same pixels, what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from builders import make_cell, make_image, make_record, run_here
from conftest import tiny_overrides

from svd_batch import cli as command_line
from svd_batch.backends import LoadSettings
from svd_batch.bench import OFF, _speeds
from svd_batch.bench.measure import Comparison, Loaded, Pair, Worker, working
from svd_batch.bench.sides import Start, StockLoop, Sweep, Turn
from svd_batch.bench.summary import PHASES, lines, summary
from svd_batch.config import BenchConfig, Compile, Config, Fit, MemoryConfig, ModelConfig, SpeedConfig, VideoConfig
from svd_batch.errors import UserError
from svd_batch.records import PlannedVideo, WorkUnit
from svd_batch.settings import GenerateSettings

LOAD = LoadSettings(32, 32, Fit.crop)
TWO_CELLS = "sweep.motion_bucket_id=[20,240]"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, pets: Path) -> SimpleNamespace:
    """A bench: 2 cells, 2 pictures, 2 rounds; with its folder, its JSON, the processes it left and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    bench = ["bench", "bench.rounds=2", "bench.pictures=2", "bench.json=new/times.json", "backend.torch_threads=1"]
    with contextlib.chdir(folder):
        printed = run_here(*bench, TWO_CELLS, f"manifest={pets}", *tiny_overrides(tiny_checkpoint))
    document, left = json.loads((folder / "new/times.json").read_text()), multiprocessing.active_children()
    return SimpleNamespace(folder=folder, document=document, left=left, out=printed.out, err=printed.err)


@pytest.fixture
def comparison(measured: SimpleNamespace) -> dict[str, Any]:
    """The one comparison of `measured`."""
    (only,) = measured.document["comparisons"]
    result: dict[str, Any] = only
    return result


def videos(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    return [video for turns in comparison["rounds"] for video in turns["videos"]]


def test_the_ratio_is_the_quotient_of_the_recorded_times(comparison: dict[str, Any]) -> None:
    rounds = comparison["rounds"]
    assert comparison["ratio"] == pytest.approx(sum(r["stock_s"] for r in rounds) / sum(r["ours_s"] for r in rounds))
    assert [r["ratio"] for r in rounds] == pytest.approx([r["stock_s"] / r["ours_s"] for r in rounds])


def test_each_round_has_each_picture_with_its_whole_grid_of_both(comparison: dict[str, Any]) -> None:
    made = [[(v["image_id"], v["cell"]["motion_bucket_id"]) for v in r["videos"]] for r in comparison["rounds"]]
    images = list(dict.fromkeys(image for image, _ in made[0]))
    assert len(images) == 2
    assert made == 2 * [[(image, bucket) for image in images for bucket in (20, 240)]]
    assert comparison["stock"]["num_videos"] == comparison["ours"]["num_videos"] == comparison["num_videos"] == 8


def test_pixels_are_within_the_promise_and_the_worst_video_is_told(comparison: dict[str, Any]) -> None:
    assert comparison["largest_difference"] == max(v["difference"] for v in videos(comparison)) < 1e-4


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_every_part_of_every_video_took_time(side: str, comparison: dict[str, Any]) -> None:
    assert all(video[side][phase] > 0 for video in videos(comparison) for phase in PHASES)


def test_the_parts_of_the_loop_fit_into_its_time(comparison: dict[str, Any]) -> None:
    for turns in comparison["rounds"]:
        assert sum(seconds for video in turns["videos"] for seconds in video["stock"].values()) <= turns["stock_s"]


def test_what_the_engine_computes_fits_into_its_time_though_it_writes_meanwhile(comparison: dict[str, Any]) -> None:
    computed = ("condition", "denoise", "decode")
    for turns in comparison["rounds"]:
        assert sum(video["ours"][phase] for video in turns["videos"] for phase in computed) <= turns["ours_s"]


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_the_breakdown_is_the_mean_over_the_single_times(side: str, comparison: dict[str, Any]) -> None:
    told = comparison[side]["seconds_a_video"]
    for phase in PHASES:
        assert told[phase] == pytest.approx(np.mean([video[side][phase] for video in videos(comparison)]))
    assert told["wall"] == pytest.approx(sum(r[f"{side}_s"] for r in comparison["rounds"]) / 8)


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
    assert all(re.match(r"\d+/20 videos, 0 failed", line) for line in measured.err.splitlines())


def test_the_videos_are_gone_and_the_file_is_all_that_is_left(measured: SimpleNamespace) -> None:
    assert measured.left == []
    assert [p.name for p in measured.folder.rglob("*") if p.is_file()] == ["times.json"]


def test_each_measures_all_shortcuts_and_then_one_by_one_with_the_others_off() -> None:
    two = dataclasses.replace(OFF, temporal_conv2d=True, batch_size=4)
    config = Config(speed=two, bench=BenchConfig(each=True))
    assert _speeds(config) == [
        two,
        dataclasses.replace(OFF, temporal_conv2d=True),
        dataclasses.replace(OFF, batch_size=4),
    ]
    assert _speeds(Config(speed=two)) == [two]


class Here:
    """A side as `Worker` has it, but in this process."""

    def __init__(self, name: str, settings: GenerateSettings, load: LoadSettings) -> None:
        own = dataclasses.replace(settings, output=f"{settings.output}/{name}")
        self.name, self.side = name, (StockLoop if name == "stock" else Sweep)(own, load)
        self.start, self.ask = self.side.start, self.side.turn

    def close(self) -> None:
        pass


def test_each_comparison_is_told_in_the_file_and_on_the_screen(
    tiny: list[str],
    pets: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("svd_batch.bench.measure.Worker", Here)  # four processes would tell no more
    out = tmp_path / "times.json"
    options = ["bench.rounds=1", "bench.pictures=1", f"bench.json={out}", "bench.each=true", f"manifest={pets}"]
    assert command_line.main(["bench", *options, "speed=off", "speed.temporal_conv2d=true", *tiny]) == 0
    comparisons = json.loads(out.read_text())["comparisons"]
    assert [c["shortcuts"] for c in comparisons] == [["temporal_conv2d"], ["temporal_conv2d"]]
    printed = capfd.readouterr().out
    assert all("\n".join(lines(c)) in printed for c in comparisons)


# --- the two sides ------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, tiny_checkpoint: Path) -> GenerateSettings:
    model = ModelConfig(id=str(tiny_checkpoint), name="tiny", num_frames=3, height=32, width=32)
    return GenerateSettings(
        str(tmp_path), model, "r", MemoryConfig(), VideoConfig(), "f", SpeedConfig(), torch_threads=1
    )


@pytest.fixture
def unit(pictures: Path) -> WorkUnit:
    """Two cells of one picture."""
    cells = [make_cell(num_inference_steps=2, motion_bucket_id=bucket) for bucket in (20, 240)]
    planned = (PlannedVideo(f"{number:020x}", cell, 7, 0) for number, cell in enumerate(cells))
    return WorkUnit(make_image("a", source=str(pictures / "a.png")), tuple(planned))


def test_a_turn_knows_nothing_of_the_picture_from_an_earlier_turn(
    settings: GenerateSettings, unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(settings, LOAD)
    encoded: list[int] = []
    encode = sweep.stage.engine.pipe._encode_picture
    monkeypatch.setattr(sweep.stage.engine.pipe, "_encode_picture", lambda p: encoded.append(len(p)) or encode(p))
    for _ in range(2):
        sweep.turn([unit])
    sweep.stage.close()
    assert encoded == [1, 1]


@pytest.mark.parametrize("kind", [StockLoop, Sweep])
def test_a_turn_makes_its_videos_again_though_they_were_made_before(
    kind: type[StockLoop | Sweep], settings: GenerateSettings, unit: WorkUnit
) -> None:
    side = kind(settings, LOAD)
    first, second = side.turn([unit]), side.turn([unit])
    assert not set(first.records) & set(second.records)  # what was read back would have the same times
    assert all(np.array_equal(a, b) for a, b in zip(first.pixels, second.pixels, strict=True))
    assert side.committer.store.done_ids() == set()


def test_stock_gets_what_it_has_of_the_memory_settings(settings: GenerateSettings) -> None:
    chunked = dataclasses.replace(settings, memory=MemoryConfig(forward_chunking=True))
    plain, saving = (StockLoop(s, LOAD).stock.pipe.unet.down_blocks[1].attentions[0] for s in (settings, chunked))
    assert plain.transformer_blocks[0]._chunk_size is None
    assert saving.transformer_blocks[0]._chunk_size == 1


def test_a_side_has_a_process_of_its_own_and_what_goes_wrong_there_is_one_sentence(
    settings: GenerateSettings, unit: WorkUnit
) -> None:
    gone = dataclasses.replace(unit, image=make_image("a", source="/nowhere.png"))
    with working("ours", settings, LOAD) as ours:
        assert ours.process.pid not in (None, os.getpid())
        assert ours.process.is_alive()
        with pytest.raises(UserError, match=r"^bench: the sweep engine: load: "):
            ours.ask([gone])
        ours.process.kill()
        ours.process.join()
        with pytest.raises(UserError, match="bench: the sweep engine: its process died, exit code -9"):
            ours._answer()


def test_without_shortcuts_the_pixels_are_stocks_to_the_bit(settings: GenerateSettings, unit: WorkUnit) -> None:
    theirs, ours = (kind(dataclasses.replace(settings, speed=OFF), LOAD).turn([unit]) for kind in (StockLoop, Sweep))
    assert all(np.array_equal(a, b) for a, b in zip(theirs.pixels, ours.pixels, strict=True))


def test_a_side_that_does_not_load_is_one_sentence_and_leaves_no_process(settings: GenerateSettings) -> None:
    nowhere = dataclasses.replace(settings, model=dataclasses.replace(settings.model, id="/nowhere", name="x"))
    with pytest.raises(UserError, match="bench: the sweep engine: model.id: no such folder"):
        Worker("ours", nowhere, LOAD)
    assert not multiprocessing.active_children()


# --- the sums -----------------------------------------------------------------------------------------------------


def made_up() -> Comparison:
    """Return two pairs of one video each: stock 6 s and 4 s, of which 1 s and 1 s to commit; ours 3 s and 1 s."""

    def turn(wall_s: float, peak: int) -> Turn:
        return Turn(wall_s, (make_record(commit_s=1.0, peak_memory_bytes=peak),))

    pairs = (
        Pair(turn(6.0, 9 << 30), turn(3.0, 8 << 30), (1e-6,)),
        Pair(turn(4.0, 5 << 30), turn(1.0, 7 << 30), (3e-6,)),
    )
    stock = Loaded(Start(2.0, MemoryConfig()), turn(6.5, 4 << 30))
    ours = Loaded(Start(3.0, MemoryConfig()), turn(9.5, 11 << 30))
    return Comparison(stock, ours, pairs)


def test_the_ratio_weighs_long_pictures_more_and_the_spread_says_how_they_differ() -> None:
    result = summary(made_up())
    assert result["ratio"] == 10 / 4
    assert result["ratio_spread"] == {"min": 2.0, "median": 3.0, "max": 4.0}
    assert result["largest_difference"] == 3e-6


def test_a_loop_that_does_not_commit_is_compared_without_that_time() -> None:
    assert summary(made_up())["ratio_without_stock_commits"] == 8 / 4


def test_loading_and_the_first_grid_count_in_the_ratio_of_a_whole_job() -> None:
    assert summary(made_up())["ratio_of_100_videos"] == pytest.approx((2 + 6.5 + 99 * 5) / (3 + 9.5 + 99 * 2))


def test_a_peak_is_the_most_of_all_turns_the_first_included() -> None:
    result = summary(made_up())
    assert (result["stock"]["peak_memory_bytes"], result["ours"]["peak_memory_bytes"]) == (9 << 30, 11 << 30)
    assert "peak memory: 9.00 GiB, 11.00 GiB" in lines(result)


def test_a_machine_that_was_slowed_by_other_things_is_told() -> None:
    even = made_up()
    even = dataclasses.replace(even, pairs=(even.pairs[0], even.pairs[0]))
    assert any("measure again" in line for line in lines(summary(made_up())))
    assert not any("measure again" in line for line in lines(summary(even)))


def test_no_shortcut_is_what_conf_calls_off() -> None:
    off = yaml.safe_load((command_line.conf_dir() / "speed" / "off.yaml").read_text())
    assert SpeedConfig(**{**off, "compile": Compile(off["compile"])}) == OFF


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("output=here", "output: bench keeps no videos"),
        ("backend.num_actors=2", "backend.num_actors: bench runs on this machine"),
        ("backend.address=auto", "backend.address: bench runs on this machine"),
        ("refine.best=1", "refine.best: bench makes the whole grid"),
        ("bench.rounds=0", "bench.rounds: 0 is not accepted; give a whole number from 1 to 1000"),
        ("bench.pictures=0", "bench.pictures: 0 is not accepted"),
        ("bench.rounds=few", "bench.rounds: 'few' is not accepted; give a whole number"),
        ("bench.each=maybe", "bench.each: 'maybe' is not accepted; give true or false"),
        ("bench.json=''", "bench.json: the empty string is not accepted"),
        ("bench.json=there.json", "bench.json: there.json is there already; give a new file"),
        ("bench.json=there.json/times.json", "bench.json: there.json can't be made"),
        ("quality=draft", "bench: stock diffusers has no ays10, deep_cache_interval=2, guidance in"),
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
