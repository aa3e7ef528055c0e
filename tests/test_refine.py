"""Draft, then final: what is made, what is chosen, what is refused, and how it goes on after a kill."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import interrupted, make_cell, run_here, without_torch
from conftest import Cli, tiny_overrides
from PIL import Image

from svd_batch import cli as command_line
from svd_batch.config import RefineConfig
from svd_batch.metrics import Clip, measure
from svd_batch.records import PlannedVideo, SweepCell
from svd_batch.refine import Scored, best_cells
from svd_batch.store import Store
from svd_batch.video import read_frames

GRID = ["sweep.noise_aug_strength=[0.02,0.3,1]", "sweep.decode_chunk_size=[1,3]"]
"""Random weights hardly look at motion_bucket_id; these change pixels."""

Refine = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("no_torch")


@pytest.fixture
def refine(
    tmp_path: Path, tiny: list[str], pets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Refine:
    """`svd-batch refine` in this process with the tiny checkpoint, three pictures, six cells and the serial backend."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str, verb: str = "refine", grid: list[str] = GRID) -> tuple[int, str, str]:
        code = command_line.main([verb, *job(tiny, pets), *grid, *overrides])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def job(tiny: list[str], manifest: Path) -> list[str]:
    """Return the arguments that all of these jobs share."""
    return ["backend=serial", "video=ffv1", *tiny, f"manifest={manifest}", "output=out"]


@pytest.fixture(scope="module")
def best_two(
    no_torch: None, tiny_checkpoint: Path, pets: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a finished job with refine.best=2, only to be read, and what it printed."""
    folder = tmp_path_factory.mktemp("best_two") / "out"
    arguments = [*job(tiny_overrides(tiny_checkpoint), pets), *GRID, f"output={folder}", "refine.best=2"]
    return folder, run_here("refine", *arguments).out


@pytest.fixture
def finished(best_two: tuple[Path, str]) -> Path:
    """The folder of `best_two`."""
    return best_two[0]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished`, where `refine` goes on."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture
def one_picture(pictures: Path, tmp_path: Path) -> str:
    """The override for a manifest of one of the pictures."""
    pq.write_table(pa.table({"image_path": [str(pictures / "a.png")]}), tmp_path / "one.parquet")
    return f"manifest={tmp_path / 'one.parquet'}"


def rows(folder: Path, quality: str | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "metadata.parquet").to_pylist()
    return [row for row in found if quality in (None, row["quality"])]


def cell_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["image_id"], row["noise_aug_strength"], row["decode_chunk_size"]


def mtimes(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("videos/*/*")}


# --- what is made -----------------------------------------------------------------------------------------------


def test_every_cell_is_drafted_and_the_best_of_each_picture_are_made_as_the_settings_have_them(
    best_two: tuple[Path, str],
) -> None:
    folder, out = best_two
    drafts, finals = rows(folder, "draft"), rows(folder, "final")
    assert (len(drafts), len(finals)) == (18, 6)
    assert {row["approximations"] for row in finals} == {None}
    assert {row["num_inference_steps"] for row in finals} == {2}
    assert "drafts: 3 pictures × 6 cells = 18 videos" in out
    assert "= 6 videos" in out


def test_the_best_are_those_whose_drafts_score_highest(finished: Path) -> None:
    for image_id in {row["image_id"] for row in rows(finished)}:
        drafts = [row for row in rows(finished, "draft") if row["image_id"] == image_id]
        by_motion = {cell_of(r): r["motion"] for r in drafts}
        assert len(set(by_motion.values())) == 6
        best = sorted(by_motion, key=lambda cell: -by_motion[cell])[:2]
        assert {cell_of(r) for r in rows(finished, "final") if r["image_id"] == image_id} == set(best)


def test_with_a_target_the_best_are_those_nearest_to_it(refine: Refine, copied: Path) -> None:
    before = {row["video_id"] for row in rows(copied)}
    scores = sorted(row["refine_score"] for row in rows(copied, "draft"))
    refine("refine.best=1", f"refine.target={scores[len(scores) // 2]}")
    for image_id in {row["image_id"] for row in rows(copied)}:
        of_image = [row for row in rows(copied) if row["image_id"] == image_id]
        distance = {cell_of(r): abs(r["refine_score"] - scores[9]) for r in of_image if r["quality"] == "draft"}
        nearest = min(distance, key=lambda cell: distance[cell])
        assert nearest in {cell_of(r) for r in of_image if r["quality"] == "final"}
        assert {cell_of(r) for r in of_image if r["video_id"] not in before} <= {nearest}


def test_likeness_compares_the_first_frame_with_the_picture_as_the_model_saw_it(
    refine: Refine, tmp_path: Path, pictures: Path, one_picture: str
) -> None:
    refine("refine.best=1", "refine.metric=likeness", "fit=stretch", "metrics.names=[]", one_picture)
    row = rows(tmp_path / "out", "draft")[0]
    with Image.open(pictures / "a.png") as image:
        picture = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS))
    frames, _ = read_frames(tmp_path / "out" / row["file_name"])
    expected = measure(Clip(frames, 7, picture), ["likeness"]).values["likeness"]
    assert row["refine_score"] == row["likeness"] == pytest.approx(expected)
    assert row["refine_metric"] == "likeness"


def test_of_a_metric_of_which_less_is_better_the_lowest_are_taken(
    refine: Refine, tmp_path: Path, one_picture: str
) -> None:
    _, out, _ = refine("refine.best=1", "refine.metric=flicker", one_picture)
    assert "lowest first" in out
    for image_id in {row["image_id"] for row in rows(tmp_path / "out")}:
        of_image = [row for row in rows(tmp_path / "out") if row["image_id"] == image_id]
        scores = {cell_of(row): row["refine_score"] for row in of_image if row["quality"] == "draft"}
        assert [cell_of(row) for row in of_image if row["quality"] == "final"] == [min(scores, key=lambda c: scores[c])]


def test_drafts_of_before_there_were_metrics_are_scored_by_their_files_with_the_same_choice(
    real_engine: None, refine: Refine, tmp_path: Path, one_picture: str
) -> None:
    """With the real engine, whose embeddings those of the files must be near to."""
    job, grid = ("refine.best=1", "refine.metric=clip_likeness", one_picture), GRID[:1]
    refine(*job, grid=grid)
    finals = {row["video_id"] for row in rows(tmp_path / "out", "final")}
    assert len(finals) == 1
    store = Store(tmp_path / "out")
    for record in list(store.records()):
        store.commit(dataclasses.replace(record, metrics={}, metrics_source=None, metrics_s=None))
    assert refine(*job, grid=grid)[0] == 0
    assert {row["video_id"] for row in rows(tmp_path / "out", "final")} == finals
    assert {row["metrics_source"] for row in rows(tmp_path / "out", "draft")} == {"file"}


def test_a_final_has_the_score_of_the_draft_that_it_was_chosen_by(
    refine: Refine, tmp_path: Path, one_picture: str
) -> None:
    refine("refine.best=2", "num_seeds=2", one_picture)
    drafts = {(*cell_of(row), row["seed"]): row["refine_score"] for row in rows(tmp_path / "out", "draft")}
    finals = rows(tmp_path / "out", "final")
    assert len(finals) == 4
    assert len(set(drafts.values())) == 12
    assert all(row["refine_score"] == drafts[(*cell_of(row), row["seed"])] for row in finals)


def test_previews_may_be_the_drafts(refine: Refine, tmp_path: Path, one_picture: str) -> None:
    refine("refine.best=1", "refine.draft=preview", one_picture)
    assert {row["quality"] for row in rows(tmp_path / "out")} == {"preview", "final"}


def test_a_manifest_column_narrows_the_cells_that_are_drafted(refine: Refine, tmp_path: Path, pictures: Path) -> None:
    table = {"image_path": [str(pictures / "a.png"), str(pictures / "b.jpg")], "noise_aug_strength": [0.7, None]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    assert refine("refine.best=3", f"manifest={tmp_path / 'm.parquet'}")[0] == 0
    made = [(row["quality"], row["noise_aug_strength"] == 0.7) for row in rows(tmp_path / "out")]
    counts = [made.count(kind) for kind in (("draft", True), ("draft", False), ("final", True), ("final", False))]
    assert counts == [2, 6, 2, 3]


def test_a_picture_that_fails_has_neither_drafts_nor_finals(refine: Refine, tmp_path: Path, pictures: Path) -> None:
    names = [str(pictures / "a.png"), "gone.png"]
    pq.write_table(pa.table({"image_path": names}), tmp_path / "m.parquet")
    assert refine("refine.best=1", f"manifest={tmp_path / 'm.parquet'}")[0] == 0
    assert len(rows(tmp_path / "out", "final")) == 1
    assert pq.read_table(tmp_path / "out/failures.parquet").num_rows == 1


def test_a_folder_without_refine_has_no_scores_and_one_with_it_keeps_them(
    refine: Refine, tmp_path: Path, one_picture: str
) -> None:
    refine(one_picture, verb="run", grid=[])
    assert "refine_score" not in rows(tmp_path / "out")[0]
    refine("refine.best=1", one_picture)
    refine(one_picture, verb="run", grid=[])
    scores = [row["refine_score"] for row in rows(tmp_path / "out")]
    assert sum(score is None for score in scores) == 1
    assert command_line.main(["verify", str(tmp_path / "out")]) == 0


# --- going on ---------------------------------------------------------------------------------------------------


def test_the_same_command_again_finds_nothing_to_do(refine: Refine, copied: Path) -> None:
    before, table = mtimes(copied), rows(copied)
    code, out, _ = refine("refine.best=2")
    assert (code, out.count("nothing to do")) == (0, 2)
    assert mtimes(copied) == before
    assert rows(copied) == table


def test_more_cells_later_draft_nothing_again(refine: Refine, copied: Path) -> None:
    before = mtimes(copied)
    _, out, _ = refine("refine.best=3")
    assert "6 done, 3 new" in out
    assert {name: mtimes(copied)[name] for name in before} == before


KILLED_BETWEEN = """
import os, signal, sys
import svd_batch.refine
svd_batch.refine.best_cells = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from svd_batch.cli import main
main(sys.argv[1:])
"""


def test_a_job_killed_between_drafts_and_finals_goes_on_with_the_same_choice(
    refine: Refine, finished: Path, tmp_path: Path, tiny: list[str], pets: Path
) -> None:
    arguments = ["refine", *job(tiny, pets), *GRID, "refine.best=2"]
    command, environment = [sys.executable, "-c", KILLED_BETWEEN, *arguments], without_torch(tmp_path / "out", 0)
    killed = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    drafts = mtimes(tmp_path / "out")
    assert len(drafts) == 18
    code, out, _ = refine("refine.best=2")
    assert code == 0
    assert "18 of 18 done, nothing to do" in out
    assert {name: mtimes(tmp_path / "out")[name] for name in drafts} == drafts
    ids = [{row["video_id"] for row in rows(folder)} for folder in (tmp_path / "out", finished)]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 24


def test_a_job_interrupted_while_drafting_makes_no_finals_and_goes_on(
    refine: Refine, tmp_path: Path, tiny: list[str], pets: Path
) -> None:
    arguments = ["refine", *job(tiny, pets), *GRID, "refine.best=2"]
    stopped = interrupted(arguments, signal.SIGTERM, tmp_path, env=without_torch(tmp_path / "out", 0.2))
    assert stopped.returncode == 130, stopped.stderr
    assert "finals:" not in stopped.stdout
    made = rows(tmp_path / "out")
    assert {row["quality"] for row in made} == {"draft"}
    assert 0 < len(made) < 18
    code, out, _ = refine("refine.best=2")
    assert code == 0
    assert f"drafts: 3 pictures × 6 cells = 18 videos with tiny into out: {len(made)} done" in out
    assert (len(rows(tmp_path / "out", "draft")), len(rows(tmp_path / "out", "final"))) == (18, 6)


def test_on_ray_both_passes_share_one_start(cli: Cli, tmp_path: Path, tiny: list[str], pets: Path) -> None:
    without = without_torch(tmp_path / "out", 0.02)
    result = cli("refine", *tiny, f"manifest={pets}", "output=out", *GRID, "refine.best=2", **without)
    assert result.returncode == 0, result.stderr
    heads = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert heads == ["drafts", "finals", "scores", "videos", "table", "report"]
    assert (len(rows(tmp_path / "out", "draft")), len(rows(tmp_path / "out", "final"))) == (18, 6)
    assert len(list((tmp_path / "out/.svd_batch/logs").glob("run-*.log"))) == 1


# --- plan, and what is refused ------------------------------------------------------------------------------------


def test_plan_tells_the_drafts_and_how_many_finals_follow(refine: Refine, tmp_path: Path) -> None:
    code, out, _ = refine("refine.best=2", "num_seeds=2", verb="plan")
    assert code == 0
    assert "drafts: 3 pictures × 6 cells × 2 seeds = 36 videos" in out
    assert "up to 12 videos: the best 2 of 6 cells of each picture" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "refine.best: none given"),
        (["refine.best=6"], "refine.best: 6 of 6 cells leaves nothing to choose; give at most 5, or use `run`"),
        (["refine.best=0"], "refine.best: 0 is not accepted"),
        (["refine.best=1", "refine.metric=beauty"], "refine.metric: 'beauty' is not accepted; the metrics are motion,"),
        (
            ["refine.best=1", "refine.metric=likenes"],
            "refine.metric: 'likenes' is not accepted; did you mean likeness?",
        ),
        (["refine.best=1", "refine.metric=is_frozen"], "refine.metric: is_frozen is true or false and ranks nothing"),
        (
            ["refine.best=1", "refine.metric=contrast_drift"],
            "refine.target: none given, and the highest contrast_drift",
        ),
        (["refine.best=1", "refine.target=-1"], "refine.target: -1.0 is not accepted; give a number from 0"),
        (
            ["refine.best=1", "refine.metric=likeness", "refine.target=2"],
            "refine.target: 2.0 is not accepted; give a number from -1 to 1",
        ),
        (["refine.best=1", "refine.draft=final"], "refine.draft: 'final' is not accepted; give one of"),
        (
            ["refine.best=1", "quality=draft", "generation.num_inference_steps=10"],
            "are those of quality=draft already; give those of the final videos",
        ),
        (["refine.best=1", "sweep.deep_cache_interval=[1,3]"], "since deep_cache_interval is what quality=draft sets"),
    ],
)
def test_what_can_not_be_refined_is_refused_before_anything_is_made(
    overrides: list[str], sentence: str, refine: Refine, tmp_path: Path
) -> None:
    code, _, err = refine(*overrides)
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "out").exists()


def test_a_single_cell_leaves_nothing_to_choose(refine: Refine) -> None:
    assert "1 of 1 cells leaves nothing to choose; sweep more cells" in refine("refine.best=1", grid=[])[2]


def test_run_refuses_to_refine(refine: Refine) -> None:
    assert "`run` makes the whole grid in one quality; use the verb `refine`" in refine("refine.best=1", verb="run")[2]


def test_a_damaged_draft_is_told(refine: Refine, copied: Path) -> None:
    row = rows(copied, "draft")[0]
    (copied / row["file_name"]).write_bytes(b"")
    store = Store(copied)
    record = store.read_record(row["video_id"])
    assert record is not None
    store.commit(dataclasses.replace(record, metrics={}))
    assert f"the draft {row['video_id']} can't be scored" in refine("refine.best=2")[2]


# --- the choice by itself -----------------------------------------------------------------------------------------


def scored(*scores: tuple[int, float]) -> list[Scored]:
    """Return drafts of cells told apart by their bucket, each with a score."""
    return [
        Scored(PlannedVideo(f"{i:020}", make_cell(motion_bucket_id=bucket), i, 0), score)
        for i, (bucket, score) in enumerate(scores)
    ]


def buckets(cells: list[SweepCell]) -> list[int]:
    return [cell.motion_bucket_id for cell in cells]


@pytest.mark.parametrize(
    ("best", "target", "chosen"),
    [(1, None, [3]), (2, None, [1, 3]), (1, 0.2, [2]), (2, 0.3, [1, 2]), (9, None, [1, 2, 3])],
)
def test_the_choice_is_in_the_grids_order(best: int, target: float | None, chosen: list[int]) -> None:
    settings = RefineConfig(best=best, metric="motion", target=target)
    assert buckets(best_cells(scored((1, 0.5), (2, 0.15), (3, 0.9)), settings)) == chosen


def test_the_seeds_of_a_cell_count_by_their_mean() -> None:
    drafts = scored((1, 0.0), (1, 1.0), (2, 0.6), (2, 0.6))
    assert buckets(best_cells(drafts, RefineConfig(best=1))) == [2]


def test_of_equal_cells_the_first_is_taken() -> None:
    assert buckets(best_cells(scored((5, 0.4), (4, 0.4)), RefineConfig(best=1))) == [5]
