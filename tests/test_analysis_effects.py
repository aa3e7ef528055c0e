"""Curves, heatmaps, monotonicity and sensitivity, on sweeps of known answers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sweep_tables import Row, noise, sweep

from svd_batch.analysis import Analysis, analyse
from svd_batch.analysis.bootstrap import NUM_RESAMPLES, estimate
from svd_batch.analysis.effects import spearman

BUCKETS, NOISES = [20, 127, 240], [0.02, 0.1, 0.3]
GRID = {"motion_bucket_id": BUCKETS, "noise_aug_strength": NOISES}


def additive(row: Row) -> float:
    """The picture's own level, plus the bucket's part, less the noise's."""
    return row["picture"] ** 1.5 + row["motion_bucket_id"] / 100 - 3 * row["noise_aug_strength"]


def analysed(axes: Any = GRID, **options: Any) -> Analysis:
    return analyse(sweep(axes, **options))


def centers(analysis: Analysis, index: int = 0) -> list[float | None]:
    return [point.center for point in analysis.curves[index].points]


# --- estimates over pictures ------------------------------------------------------------------------------


def test_a_single_picture_has_no_interval():
    one = estimate(np.array([3.0, np.nan]))
    assert (one.value, one.low, one.high, one.num_pictures) == (3.0, None, None, 1)


def test_nothing_gives_no_estimate():
    assert estimate(np.array([np.nan])).value is None


def test_the_same_values_give_the_same_interval_in_any_order():
    values = np.random.default_rng(1).normal(size=40)
    assert estimate(values) == estimate(values[::-1])


@pytest.mark.parametrize("count", [2, 3, 7, 24, 101])
def test_the_interval_of_a_median_is_that_of_a_bootstrap_that_draws_pictures(count: int):
    values = np.random.default_rng(count).gamma(2.0, size=count)
    drawn = scipy.stats.bootstrap((values,), np.median, n_resamples=20_000, method="percentile", rng=5)
    ours = estimate(values)
    gaps = np.diff(np.sort(values)).max()  # a percentile may fall on either side of a step
    assert ours.low == pytest.approx(drawn.confidence_interval.low, abs=gaps / 2)
    assert ours.high == pytest.approx(drawn.confidence_interval.high, abs=gaps / 2)


@pytest.mark.parametrize("values", [np.repeat([0.0, 1.0], [30, 10]), np.linspace(0, 1, 200) ** 2])
def test_the_interval_of_a_mean_is_that_of_a_bootstrap_that_draws_pictures(values: np.ndarray):
    drawn = scipy.stats.bootstrap((values,), np.mean, n_resamples=NUM_RESAMPLES, method="percentile", rng=5)
    ours = estimate(values, is_mean=True)
    assert ours.low == pytest.approx(drawn.confidence_interval.low, abs=0.02)
    assert ours.high == pytest.approx(drawn.confidence_interval.high, abs=0.02)


def test_the_median_of_an_even_number_of_pictures_lies_between_the_middle_two():
    one = estimate(np.array([0.0, 1.0]), level=0.4)  # medians of resamples: 0, 0.5 and 1, as 1 to 2 to 1
    assert (one.low, one.high) == (0.5, 0.5)


# --- curves -----------------------------------------------------------------------------------------------


def test_a_curve_is_the_median_over_pictures_of_each_pictures_mean_over_the_rest():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(9, 3, 3, 2))  # pictures, buckets, noises, replicates
    videos = sweep(
        GRID,
        pictures=9,
        replicates=2,
        metrics={
            "motion": lambda r: values[
                r["picture"],
                BUCKETS.index(r["motion_bucket_id"]),
                NOISES.index(r["noise_aug_strength"]),
                r["replicate"],
            ]
        },
    )
    assert centers(analyse(videos)) == pytest.approx(np.median(values.mean(axis=(2, 3)), axis=0))
    assert centers(analyse(videos), 1) == pytest.approx(np.median(values.mean(axis=(1, 3)), axis=0))


def test_a_point_says_how_many_pictures_and_videos_it_is_over():
    (point, *_) = analysed(pictures=5, replicates=2, metrics={"motion": additive}).curves[0].points
    assert (point.num_pictures, point.num_videos) == (5, 5 * 3 * 2)


def test_cells_that_failed_where_the_metric_is_high_do_not_bend_the_curve():
    whole = analysed(metrics={"motion": additive})
    lacking = analysed(
        keep=lambda r: not (r["motion_bucket_id"] == 240 and r["noise_aug_strength"] == 0.02 and r["picture"] > 3),
        metrics={"motion": additive},
    )
    assert centers(lacking) == pytest.approx(centers(whole), abs=1e-5)
    assert centers(lacking, 1) == pytest.approx(centers(whole, 1), abs=1e-5)


def test_a_lost_tenth_of_all_videos_leaves_an_additive_curve_where_it_was():
    rng = np.random.default_rng(4)
    whole = analysed(pictures=30, metrics={"motion": additive})
    lacking = analysed(pictures=30, keep=lambda r: rng.random() > 0.1, metrics={"motion": additive})
    assert lacking.curves[0].is_matched
    kept = 30 - lacking.curves[0].num_left_out
    assert kept == lacking.curves[0].points[0].num_pictures
    steps = [b - a for a, b in pairwise(centers(lacking))]
    assert steps == pytest.approx([b - a for a, b in pairwise(centers(whole))], abs=1e-4)


def test_a_picture_that_lacks_a_step_is_left_out_of_all_steps():
    curve = analysed(
        keep=lambda r: not (r["motion_bucket_id"] == 240 and r["picture"] == 7), metrics={"motion": additive}
    ).curves[0]
    assert [p.num_pictures for p in curve.points] == [7, 7, 7]
    assert (curve.is_matched, curve.num_left_out) == (True, 1)


def test_where_most_pictures_lack_a_step_each_point_is_over_what_there_is():
    curve = analysed(
        keep=lambda r: r["motion_bucket_id"] != 240 or r["picture"] < 3, metrics={"motion": additive}
    ).curves[0]
    assert [p.num_pictures for p in curve.points] == [8, 8, 3]
    assert not curve.is_matched


def test_a_step_without_any_value_stays_empty():
    curve = analysed(metrics={"motion": lambda r: None if r["motion_bucket_id"] == 127 else additive(r)}).curves[0]
    assert curve.points[1].center is None
    assert curve.points[1].num_pictures == 0
    assert curve.points[0].center is not None


def test_steps_that_never_share_the_settings_of_the_others_are_said_to_be_confounded():
    cells = {(20, 0.02), (127, 0.02), (240, 0.3)}
    curve = analysed(
        keep=lambda r: (r["motion_bucket_id"], r["noise_aug_strength"]) in cells, metrics={"motion": additive}
    ).curves[0]
    assert curve.is_confounded


def test_an_axis_without_effect_has_none_where_cells_are_missing():
    analysis = analysed(
        keep=lambda r: (r["motion_bucket_id"], r["noise_aug_strength"]) not in {(127, 0.1), (127, 0.3), (240, 0.3)},
        metrics={"motion": lambda r: r["motion_bucket_id"] / 100 + r["picture"] / 100},
    )
    assert {m.axis: (m.rho, m.num_rising, m.num_falling) for m in analysis.monotonicities} == {
        "motion_bucket_id": (1.0, 8, 0),
        "noise_aug_strength": (None, 0, 0),
    }
    assert all(change.range == 0 for change in analysis.sensitivities[1].most)


def test_steps_of_a_picture_that_share_no_settings_are_not_compared():
    def made(row: Row) -> bool:
        return row["picture"] > 0 or (row["motion_bucket_id"] == 20) == (row["noise_aug_strength"] == 0.3)

    analysis = analysed(keep=made, metrics={"motion": additive})
    assert [p.num_pictures for p in analysis.curves[0].points] == [7, 7, 7]
    changes = {p.image_id: p.range for p in analysis.sensitivities[0].most + analysis.sensitivities[0].least}
    assert changes["img0000"] == pytest.approx(2.40 - 1.27)
    assert changes["img0001"] == pytest.approx(2.40 - 0.20)


def test_a_flag_has_the_fraction_of_clips_for_its_curve():
    curve = analysed({"fps": [7, 12]}, pictures=8, metrics={"is_frozen": lambda r: r["picture"] < 2 and r["fps"] == 7})
    assert (curve.curves[0].statistic, centers(curve)) == ("mean", [0.25, 0.0])


def test_one_picture_gives_points_without_intervals():
    points = analysed(pictures=1, metrics={"motion": additive}).curves[0].points
    assert all(p.center is not None and p.low is None and p.high is None for p in points)


# --- heatmaps ---------------------------------------------------------------------------------------------


def test_a_heatmap_is_the_median_over_pictures_in_each_pair_of_steps():
    (heatmap,) = analysed(metrics={"motion": additive}).heatmaps
    level = float(np.median(np.arange(8) ** 1.5))
    assert (heatmap.x, heatmap.y) == ("motion_bucket_id", "noise_aug_strength")
    expected = [[level + b / 100 - 3 * n for b in BUCKETS] for n in NOISES]
    assert np.array(heatmap.centers) == pytest.approx(np.array(expected))


def test_a_pair_of_steps_without_a_clip_is_none_and_over_no_pictures():
    (heatmap,) = analysed(
        keep=lambda r: (r["motion_bucket_id"], r["noise_aug_strength"]) != (127, 0.3), metrics={"motion": additive}
    ).heatmaps
    assert heatmap.centers[2][1] is None
    assert heatmap.num_pictures == ((8, 8, 8), (8, 8, 8), (8, 0, 8))


def test_three_axes_have_three_heatmaps():
    analysis = analysed({**GRID, "fps": [7, 12]}, pictures=2, metrics={"motion": additive})
    assert [(h.x, h.y) for h in analysis.heatmaps] == [
        ("motion_bucket_id", "noise_aug_strength"),
        ("motion_bucket_id", "fps"),
        ("noise_aug_strength", "fps"),
    ]


# --- monotonicity and sensitivity ---------------------------------------------------------------------------


def test_rank_correlations_are_scipys_ties_and_gaps_included():
    rng = np.random.default_rng(5)
    matrix = rng.integers(0, 5, (200, 7)).astype(float)
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    for row, rho in zip(matrix, spearman(matrix), strict=True):
        known = np.isfinite(row)
        if known.sum() < 3 or len(set(row[known])) == 1:
            assert np.isnan(rho)
        else:
            assert rho == pytest.approx(scipy.stats.spearmanr(np.flatnonzero(known), row[known]).statistic)


def test_a_metric_that_rises_in_every_picture_has_a_rho_of_one():
    found = analysed(metrics={"motion": additive}).monotonicities
    assert [(m.axis, m.rho, m.low, m.high) for m in found] == [
        ("motion_bucket_id", 1.0, 1.0, 1.0),
        ("noise_aug_strength", -1.0, -1.0, -1.0),
    ]
    assert (found[0].num_rising, found[0].num_falling, found[1].num_falling) == (8, 0, 8)


def test_two_steps_are_too_few_for_a_rank_correlation():
    (found,) = analysed({"fps": [7, 12]}, metrics={"motion": lambda r: r["fps"]}).monotonicities
    assert (found.rho, found.num_pictures, found.num_rising) == (None, 0, 8)


def test_an_axis_of_words_has_no_monotonicity():
    assert analysed({"sampler": ["euler", "ays10"]}, metrics={"motion": noise(1.0)}).monotonicities == ()


def test_sensitivity_names_the_pictures_that_an_axis_moves_most_and_least():
    found = analysed(
        {"motion_bucket_id": [0, 100, 200]}, metrics={"motion": lambda r: r["picture"] * r["motion_bucket_id"] / 100}
    ).sensitivities[0]
    most, least = found.most[0], found.least[0]
    assert (most.image_id, most.change, most.range) == ("img0007", 14.0, 14.0)
    assert most.slope == pytest.approx(0.07)
    assert (least.image_id, least.range) == ("img0000", 0.0)
    assert found.range_quantiles == pytest.approx((0, 3.5, 7, 10.5, 14))
