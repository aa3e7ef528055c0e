"""Cells side by side and single clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sweep_tables import noise, sweep

from svd_batch.analysis import analyse
from svd_batch.analysis import cells as cells_module
from svd_batch.analysis.cells import Pareto, pareto
from svd_batch.analysis.clips import distribution

MOTION = {20: 0.4, 127: 1.5, 180: 1.2, 240: 2.0}
LIKENESS = {20: 0.9, 127: 0.8, 180: 0.75, 240: 0.7}
AXES = {"motion_bucket_id": list(MOTION)}
METRICS = {
    "motion": lambda row: MOTION[row["motion_bucket_id"]] + row["picture"] / 100,
    "likeness": lambda row: LIKENESS[row["motion_bucket_id"]],
}


def best(found: Pareto | None) -> list[int]:
    assert found is not None
    return [p.cell for p in found.points if p.is_best]


def test_a_cell_that_another_beats_in_both_is_not_in_the_pareto_set():
    assert best(analyse(sweep(AXES, metrics=METRICS)).pareto) == [0, 1, 3]


def test_the_directions_of_a_pareto_set_may_be_others():
    videos = sweep(AXES, metrics=METRICS)
    assert best(pareto(videos, {"motion": "low", "likeness": "high"})) == [0]


@pytest.mark.parametrize("seed", range(5))
def test_the_pareto_set_is_that_of_comparing_each_cell_with_each_other(seed: int):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, (30, 2))  # small whole numbers: many ties
    videos = sweep(
        {"motion_bucket_id": range(30)},
        pictures=1,
        metrics={
            "motion": lambda row: float(values[row["motion_bucket_id"], 0]),
            "likeness": lambda row: float(values[row["motion_bucket_id"], 1]),
        },
    )
    beaten = [any((o >= v).all() and (o > v).any() for o in values) for v in values]
    assert best(analyse(videos).pareto) == [i for i, is_beaten in enumerate(beaten) if not is_beaten]


def test_a_picture_that_lacks_a_cell_does_not_shift_that_cell():
    found = analyse(
        sweep(AXES, metrics=METRICS, keep=lambda row: not (row["picture"] == 7 and row["motion_bucket_id"] == 20))
    ).pareto
    assert found is not None
    assert (found.is_matched, {p.num_pictures for p in found.points}) == (True, {7})


def test_without_likeness_there_is_no_pareto_set():
    assert analyse(sweep(AXES, metrics={"motion": METRICS["motion"]})).pareto is None


def test_the_table_of_cells_has_medians_and_each_pictures_own_values():
    table = analyse(sweep(AXES, pictures=3, metrics=METRICS)).cell_table
    assert (table.axes, table.cells) == (("motion_bucket_id",), ((20,), (127,), (180,), (240,)))
    assert table.figures[0].medians == pytest.approx([0.41, 1.51, 1.21, 2.01])
    assert table.by_picture["motion"][2] == pytest.approx([0.42, 1.52, 1.22, 2.02])


def test_too_many_values_of_single_pictures_are_left_out_of_the_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cells_module, "MOST_SINGLE_VALUES", 10)
    table = analyse(sweep(AXES, pictures=3, metrics=METRICS)).cell_table
    assert table.by_picture == {}
    assert table.figures[0].num_pictures == (3, 3, 3, 3)


# --- clips ------------------------------------------------------------------------------------------------


def test_a_histogram_counts_every_value_once_and_says_how_many_are_missing():
    values = np.append(np.random.default_rng(0).normal(size=500), [np.nan, np.nan])
    found = distribution("motion", values)
    assert (sum(found.counts), found.num_videos, found.num_missing) == (500, 500, 2)
    assert len(found.edges) == len(found.counts) + 1
    assert found.quantiles is not None
    assert found.quantiles[3] == pytest.approx(np.nanmedian(values))


def test_one_value_only_is_one_bin():
    assert distribution("motion", np.array([2.0, 2.0])).counts == (2,)


def test_no_values_are_no_bins():
    assert distribution("motion", np.array([np.nan])).counts == ()


def test_most_values_alike_and_one_far_out_make_a_histogram_all_the_same():
    assert sum(distribution("motion", np.array([0.0] * 99 + [1e6])).counts) == 100


@pytest.mark.parametrize("pictures", [1, 2, 30])
def test_lowest_and_highest_clips_are_named_furthest_out_first_and_none_twice(pictures: int):
    (found,) = analyse(sweep({"fps": [7]}, pictures=pictures, metrics={"motion": lambda r: r["picture"]})).extremes
    lowest, highest = [c.value for c in found.lowest], [c.value for c in found.highest]
    assert lowest == sorted(lowest)
    assert highest == sorted(highest, reverse=True)
    assert not set(lowest) & set(highest)
    assert lowest[0] == 0


def test_an_extreme_clip_says_which_video_it_is():
    videos = sweep(AXES, pictures=2, metrics=METRICS)
    clip = analyse(videos).extremes[0].highest[0]
    assert (clip.image_id, clip.output, clip.cell) == ("img0001", "pets", 3)
    assert clip.video_id == videos.table["video_id"][7].as_py()


def test_frozen_clips_are_counted_and_listed():
    flags: dict[str, Any] = {"is_frozen": lambda row: row["motion_bucket_id"] == 20, "is_broken": lambda row: False}
    frozen, broken = analyse(sweep(AXES, pictures=12, metrics=flags)).flagged
    assert (frozen.metric, frozen.num_flagged, frozen.num_known, len(frozen.clips)) == ("is_frozen", 12, 48, 10)
    assert (broken.num_flagged, broken.clips) == (0, ())


def test_any_column_of_numbers_can_be_analysed():
    analysis = analyse(sweep(AXES, metrics={"beauty": noise(1.0)}), ["beauty", "generate_s"])
    assert [m.title for m in analysis.metrics] == ["beauty", "generate_s"]
