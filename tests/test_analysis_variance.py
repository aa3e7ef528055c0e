"""Variance shares against sums of squares worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sweep_tables import Row, sweep

from svd_batch.analysis import analyse
from svd_batch.analysis.variance import Shares

GRID = {"motion_bucket_id": [20, 127, 240], "noise_aug_strength": [0.02, 0.1]}


def shares(metric, **options) -> Shares:
    options.setdefault("axes", GRID)
    return analyse(sweep(options.pop("axes"), metrics={"motion": metric}, **options)).shares[0]


def looked_up(values: np.ndarray):
    """Return a metric from an array of pictures, buckets, noises and replicates."""
    buckets, noises = GRID["motion_bucket_id"], GRID["noise_aug_strength"]

    def metric(row: Row) -> float:
        bucket, noise = buckets.index(row["motion_bucket_id"]), noises.index(row["noise_aug_strength"])
        return float(values[row["picture"], bucket, noise, row["replicate"]])

    return metric


def total(found: Shares) -> float:
    assert found.picture is not None
    assert found.interactions is not None
    assert found.replicates is not None
    return found.picture + found.interactions + found.replicates + sum(v or 0.0 for v in found.axes.values())


def test_shares_of_a_whole_grid_are_the_sums_of_squares_of_a_balanced_anova():
    y = np.random.default_rng(0).normal(size=(5, 3, 2, 4)) + np.arange(3)[None, :, None, None]
    found = shares(looked_up(y), pictures=5, replicates=4)
    squares = ((y - y.mean()) ** 2).sum()
    assert found.picture == pytest.approx(24 * ((y.mean((1, 2, 3)) - y.mean()) ** 2).sum() / squares)
    assert found.axes["motion_bucket_id"] == pytest.approx(40 * ((y.mean((0, 2, 3)) - y.mean()) ** 2).sum() / squares)
    assert found.axes["noise_aug_strength"] == pytest.approx(60 * ((y.mean((0, 1, 3)) - y.mean()) ** 2).sum() / squares)
    assert found.replicates == pytest.approx(((y - y.mean(3, keepdims=True)) ** 2).sum() / squares)
    assert total(found) == pytest.approx(1)
    assert found.is_exact
    assert found.is_separable


def test_a_metric_of_one_axis_alone_is_explained_by_it_alone():
    found = shares(lambda row: row["motion_bucket_id"])
    assert found.axes == pytest.approx({"motion_bucket_id": 1, "noise_aug_strength": 0})
    assert (found.picture, found.interactions, found.replicates) == pytest.approx((0, 0, 0))


def test_what_only_a_pair_of_axes_does_is_an_interaction():
    found = shares(lambda row: (row["motion_bucket_id"] == 240) == (row["noise_aug_strength"] == 0.1))
    assert found.interactions is not None
    assert found.interactions > 0.8


def test_missing_cells_make_the_shares_approximate_and_near_those_of_the_whole_grid():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(40, 3, 2, 1)) + 2 * np.arange(3)[None, :, None, None] + np.arange(40)[:, None, None, None] / 10
    whole = shares(looked_up(y), pictures=40)
    lacking = shares(looked_up(y), pictures=40, keep=lambda r: rng.random() > 0.15)
    assert not lacking.is_exact
    assert total(lacking) == pytest.approx(1)
    assert lacking.axes["motion_bucket_id"] == pytest.approx(whole.axes["motion_bucket_id"], abs=0.06)


def test_failures_on_one_side_do_not_hand_one_axiss_share_to_the_other():
    found = shares(
        lambda row: row["motion_bucket_id"],
        keep=lambda row: row["motion_bucket_id"] != 240 or row["noise_aug_strength"] == 0.1 or row["picture"] < 3,
    )
    assert found.axes["noise_aug_strength"] == pytest.approx(0, abs=1e-9)
    assert found.axes["motion_bucket_id"] == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 3.3])
def test_a_metric_that_is_always_the_same_has_no_shares(value: float):
    found = shares(lambda row: value)
    assert (found.picture, found.interactions, set(found.axes.values())) == (None, None, {None})


def test_an_axis_that_each_picture_fixes_has_no_share():
    found = shares(
        lambda row: row["fps"] + row["motion_bucket_id"],
        axes={"motion_bucket_id": [20, 127], "fps": [6, 7]},
        keep=lambda row: row["fps"] == 6 + row["picture"] % 2,
    )
    assert found.axes["fps"] is None
    assert not found.is_exact


def test_axes_that_no_fit_can_tell_apart_are_said_to_be():
    cells = {(20, 0.02), (127, 0.02), (240, 0.1)}
    found = shares(
        lambda row: row["motion_bucket_id"] + row["picture"],
        keep=lambda row: (row["motion_bucket_id"], row["noise_aug_strength"]) in cells,
    )
    assert not found.is_separable
