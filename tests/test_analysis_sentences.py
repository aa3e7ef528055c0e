"""Sentences: true of the figures, and silent where there is nothing to say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sweep_tables import Row, noise, sweep, sweep_table

from svd_batch.analysis import Sentence, analyse, to_json, videos_of
from svd_batch.analysis.sentences import variance
from svd_batch.analysis.variance import Shares
from svd_batch.analysis.wording import number, pair

BUCKETS = {"motion_bucket_id": [20, 60, 100, 140, 180, 220, 240]}
NOISES = {"noise_aug_strength": [0.02, 0.1]}


def said(axes: Any, metric: str, value: Callable[[Row], Any], **options: Any) -> Sentence:
    """Return the sentence on the first axis."""
    options.setdefault("pictures", 12)
    return analyse(sweep(axes, metrics={metric: value}, **options)).sentences[0]


def ramp(row: Row) -> float:
    """Rise from 0.4 to 2.1 until bucket 180; pictures differ in level."""
    return 0.4 + 1.7 * min(1.0, (row["motion_bucket_id"] - 20) / 160) + (row["picture"] - 5.5) / 100


def test_a_rise_that_ends_is_told_with_both_figures_and_where_it_ends():
    jitter = noise(0.01)
    sentence = said(BUCKETS, "motion", lambda row: ramp(row) + jitter(row))
    assert sentence.kind == "rises"
    assert sentence.text.startswith(
        "motion rises from 0.4 to 2.1 px a frame between motion_bucket_id 20 and 180, no further above (change +1.7, "
    )


def test_a_rise_that_goes_on_is_told_to_the_last_step():
    sentence = said(BUCKETS, "motion", lambda row: row["motion_bucket_id"] / 100 + row["picture"] / 50)
    assert "between motion_bucket_id 20 and 240 (change +2.2," in sentence.text


def test_a_slow_end_of_a_rise_is_no_plateau():
    sentence = said(BUCKETS, "motion", lambda row: ramp(row) + max(0, row["motion_bucket_id"] - 180) / 200)
    assert "further above" not in sentence.text
    assert "and 240" in sentence.text


def test_the_last_of_thirty_small_steps_is_no_plateau():
    sentence = said({"motion_bucket_id": range(30)}, "motion", lambda row: row["motion_bucket_id"] + row["picture"])
    assert "between motion_bucket_id 0 and 29 (" in sentence.text


def test_the_last_of_thirty_small_steps_is_no_plateau_though_noise_hides_it():
    rng = np.random.default_rng(2)
    sentence = said(
        {"motion_bucket_id": range(30)}, "motion", lambda row: row["motion_bucket_id"] + float(rng.normal(0, 1))
    )
    assert "above" not in sentence.text


def test_a_plateau_that_rises_a_hundredth_is_hardly_level_but_not_level():
    sentence = said(BUCKETS, "motion", lambda row: ramp(row) + max(0, row["motion_bucket_id"] - 180) / 6000)
    assert "and 180, hardly any further above" in sentence.text


def test_noise_above_the_rise_is_no_proof_of_a_plateau():
    rng = np.random.default_rng(1)
    sentence = said(
        BUCKETS, "motion", lambda row: ramp(row) + (row["motion_bucket_id"] > 180) * float(rng.normal(0, 0.6))
    )
    assert "no further above" not in sentence.text
    assert "with no clear change above" in sentence.text


def test_a_level_beginning_is_told():
    sentence = said(BUCKETS, "motion", lambda row: max(0.0, (row["motion_bucket_id"] - 100) / 100) + row["picture"])
    assert "between motion_bucket_id 100 and 240, level below 100" in sentence.text


def test_a_rise_that_turns_is_told_with_its_peak():
    sentence = said(BUCKETS, "sharpness", lambda row: 5 - abs(row["motion_bucket_id"] - 100) / 40 + row["picture"])
    assert sentence.kind == "peaks"
    assert re.search(r"sharpness rises .* between motion_bucket_id 20 and 100, then falls to .* at 240", sentence.text)


def test_two_values_are_told_as_one_instead_of_the_other():
    sentence = said(NOISES, "likeness", lambda row: 0.92 - row["noise_aug_strength"] + row["picture"] / 1000)
    assert sentence.text.startswith(
        "noise_aug_strength 0.1 instead of 0.02 costs 0.08 of likeness (SSIM) (change -0.08, 95 % interval "
    )


def test_what_falls_though_more_is_better_is_a_cost():
    sentence = said({"noise_aug_strength": [0.02, 0.1, 0.3]}, "likeness", lambda row: 0.9 - row["noise_aug_strength"])
    assert "likeness falls from 0.88 to 0.60 (SSIM) between" in sentence.text
    assert "; that costs the median picture 0.28 of likeness (SSIM)" in sentence.text


def test_what_falls_and_is_better_low_is_no_cost():
    assert "cost" not in said(BUCKETS, "flicker", lambda row: 1 - row["motion_bucket_id"] / 1000).text


@pytest.mark.parametrize("axes", [{"fps": [7, 12]}, {"fps": [7, 12, 24]}, {"sampler": ["euler", "ays10"]}])
def test_chance_alone_has_no_clear_effect(axes: Any):
    sentence = said(axes, "flicker", noise(0.01))
    assert sentence.kind == "unclear"
    assert sentence.text.startswith(f"no clear effect of {next(iter(axes))} on flicker from ")


def test_of_a_hundred_metrics_of_chance_alone_about_one_in_twenty_seems_an_effect():
    axes = {"motion_bucket_id": [20, 90, 160, 240]}
    table = sweep_table(axes, pictures=15, metrics={f"m{i}": noise(1.0, i) for i in range(100)})
    analysis = analyse(videos_of({"pets": table}), [f"m{i}" for i in range(100)])
    kinds = [s.kind for s in analysis.sentences if s.axis]
    assert 80 <= kinds.count("unclear") <= 98


def test_an_effect_beside_which_pictures_differ_far_more_is_called_slight():
    sentence = said(BUCKETS, "motion", lambda row: row["picture"] + row["motion_bucket_id"] / 1000)
    assert "motion rises slightly from" in sentence.text


def test_of_words_the_one_instead_of_the_other_is_told():
    sentence = said({"sampler": ["euler", "ays10"]}, "likeness", lambda row: 0.9 - 0.1 * (row["sampler"] == "ays10"))
    assert sentence.text.startswith("sampler ays10 instead of euler costs 0.1 of likeness (SSIM)")


def test_few_pictures_are_said_to_be_too_few():
    assert said(BUCKETS, "motion", ramp, pictures=4).text.endswith("4 pictures; too few pictures to be sure)")


def test_one_picture_is_said_to_give_no_interval():
    sentence = said(BUCKETS, "motion", ramp, pictures=1)
    assert sentence.kind == "one_picture"
    assert sentence.text.endswith("that is one picture, so there is no interval")


def test_a_metric_that_is_always_the_same_is_told_once_with_its_value():
    analysis = analyse(sweep(BUCKETS, metrics={"flicker": lambda row: 0.5}))
    assert [s.text for s in analysis.sentences] == ["flicker is 0.5 levels everywhere on motion_bucket_id"]


def test_pictures_with_a_value_of_their_own_each_can_not_tell_an_effect():
    sentence = said(BUCKETS, "motion", ramp, keep=lambda r: r["motion_bucket_id"] == 20 + 40 * (r["picture"] % 6))
    assert sentence.kind == "not_compared"
    assert "no picture has two values of motion_bucket_id" in sentence.text


def test_one_step_with_values_can_not_tell_an_effect():
    sentence = said(BUCKETS, "motion", lambda row: 1.0 if row["motion_bucket_id"] == 20 else None)
    assert sentence.kind == "not_compared"


def test_an_effect_of_two_parameters_together_names_both():
    sentence = said(
        {"motion_bucket_id": [20, 200], "fps": [7, 12]},
        "motion",
        lambda row: row["motion_bucket_id"],
        keep=lambda row: (row["motion_bucket_id"] == 20) == (row["fps"] == 7),
    )
    assert "motion_bucket_id (together with fps) 200 instead of 20 raises motion" in sentence.text


def test_the_fraction_of_frozen_clips_is_told():
    sentence = said(BUCKETS, "is_frozen", lambda row: row["motion_bucket_id"] == 20)
    assert sentence.text.startswith(
        "the fraction of frozen clips falls from 1.0 to 0 between motion_bucket_id 20 and 60"
    )


def test_the_shares_are_told_largest_first():
    sentence = analyse(sweep({**NOISES, **BUCKETS}, metrics={"motion": ramp})).sentences[-1]
    assert sentence.text.startswith(
        "of the variance of motion, motion_bucket_id 100 %, noise_aug_strength 0 %, the pict"
    )


def test_the_shares_of_a_single_picture_name_no_picture():
    sentence = analyse(sweep({**BUCKETS, **NOISES}, pictures=1, metrics={"motion": ramp})).sentences[-1]
    assert sentence.text == (
        "of the variance of motion, motion_bucket_id 100 %, noise_aug_strength 0 % and their interplay and chance 0 %"
    )


def test_an_axis_by_itself_has_no_interplay_and_one_that_explains_all_by_force_no_share():
    jitter = noise(1.0)
    found = analyse(sweep(BUCKETS, pictures=1, replicates=3, metrics={"motion": lambda row: ramp(row) + jitter(row)}))
    assert re.search(r"^of the variance of motion, motion_bucket_id \d+ % and chance \d+ %$", found.sentences[-1].text)
    assert [s.kind for s in analyse(sweep(BUCKETS, pictures=1, metrics={"motion": ramp})).sentences] == ["one_picture"]


def test_an_axis_over_several_pictures_has_interplay_with_them():
    sentence = analyse(sweep(BUCKETS, pictures=3, metrics={"motion": ramp})).sentences[-1]
    assert sentence.text.endswith("the picture 0 % and their interplay and chance 0 %")


def test_no_share_of_an_incomplete_grid_is_told_as_more_than_the_whole():
    shares = Shares("likeness", 0.1, {"fps": 1.02, "motion_bucket_id": -0.02}, -0.1, 0.0, 8, False, True)
    sentence = variance(shares)
    assert sentence
    assert "about fps 100 %, motion_bucket_id 0 %, the picture 10 %" in sentence.text


def test_a_single_cell_has_no_shares():
    assert not analyse(sweep({}, pictures=3, replicates=2, metrics={"motion": noise(1.0)})).sentences


@pytest.mark.parametrize("value", [None, float("nan"), 0.0, 1e-300, -1e9])
@pytest.mark.parametrize("axes", [{}, {"fps": [7]}, {"fps": [7, 12]}, {"motion_bucket_id": range(30), "fps": [7, 12]}])
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_odd_tables_give_an_analysis_without_nan_and_nothing_invented(axes: Any, pictures: int, value: Any):
    table = sweep_table(axes, pictures=pictures, metrics={"motion": lambda row: value, "likeness": noise(0.1)})
    analysis = analyse(videos_of({"pets": table}))
    assert json.loads(to_json(analysis))["num_videos"] == len(table)
    if value is None or value != value:
        assert not [c for c in analysis.curves if c.metric == "motion"]


def test_the_same_table_gives_the_same_analysis():
    videos = sweep(BUCKETS, metrics={"motion": noise(1.0)})
    assert to_json(analyse(videos)) == to_json(analyse(videos))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.4, "0.4"), (2.13, "2.1"), (127, "127"), (0.0184, "0.018"), (-0.00012, "-0.00012"), (1e-9, "1e-09")],
)
def test_a_number_has_two_digits_and_no_trailing_zeros(value: float, text: str):
    assert number(value) == text


def test_two_numbers_have_digits_enough_to_be_told_apart():
    assert pair(100.01, 100.02) == ("100.010", "100.020")
