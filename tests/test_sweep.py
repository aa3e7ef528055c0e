"""Sweep axes and listed cells to ordered cells."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import CELL, make_cell

from svd_batch.errors import UserError
from svd_batch.records import CELL_FIELDS, EXACT
from svd_batch.sweep import MAX_AXIS_VALUES, apply_fixed, axis_values, cell_value, check_cell, expand


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fps", 7, (7,)),
        ("noise_aug_strength", 0.1, (0.1,)),
        ("motion_bucket_id", [20, 127, 240], (20, 127, 240)),
        ("motion_bucket_id", [240, 20], (240, 20)),
        ("motion_bucket_id", (20, 30), (20, 30)),
        ("motion_bucket_id", "20:240:44", (20, 64, 108, 152, 196, 240)),
        ("motion_bucket_id", "240:20:-110", (240, 130, 20)),
        ("motion_bucket_id", " 20 : 40 : 10 ", (20, 30, 40)),
        ("fps", "7:7:1", (7,)),
        ("noise_aug_strength", "0:0.3:0.1", (0.0, 0.1, 0.2, 0.3)),
        ("noise_aug_strength", "0.3:0:-0.1", (0.3, 0.2, 0.1, 0.0)),
        ("max_guidance_scale", "1:1e1:4.5", (1.0, 5.5, 10.0)),
    ],
)
def test_an_axis_gives_its_values_in_order_with_the_stop_included(name: str, value: Any, expected: tuple[float, ...]):
    assert axis_values(name, value) == expected


@pytest.mark.parametrize("value", [20, [20], "20:20:1", 20.0, [20.0]])
def test_the_values_of_a_whole_number_field_are_ints(value: Any):
    assert [type(v) for v in axis_values("motion_bucket_id", value)] == [int]


@pytest.mark.parametrize("value", [1, [1], "1:1:1", 1.0])
def test_the_values_of_a_decimal_field_are_floats(value: Any):
    assert [type(v) for v in axis_values("noise_aug_strength", value)] == [float]


@pytest.mark.parametrize(
    "value",
    [
        [],
        "",
        "20",
        "20:40",
        "20:40:10:5",
        "a:b:c",
        "20:40:x",
        "nan:40:10",
        "0:inf:1",
        "0:40:inf",
        "20:40:-10",
        "40:20:10",
        "20:40:0",
        "20:20:0",
        "20:45:10",
        "0:1:0.3",
        "20:21:0.5",
        "0:2000:100",
        [20, 20],
        [20, 127, 20],
        [20, 20.0],
        True,
        [True],
        float("nan"),
        float("inf"),
        [float("-inf")],
        -1,
        [20, -1],
        1024,
        20.5,
        [20.5],
        ["20"],
        [None],
        [[20]],
        {"a": 1},
    ],
)
def test_an_axis_that_means_nothing_is_refused_by_name(value: Any):
    with pytest.raises(UserError, match=r"^sweep\.motion_bucket_id"):
        axis_values("motion_bucket_id", value)


def test_a_range_that_steps_over_its_stop_names_the_two_stops_that_fit():
    with pytest.raises(UserError, match=r"end at 0\.9 or 1\.2,"):
        axis_values("noise_aug_strength", "0:1:0.3")


@pytest.mark.parametrize("step", ["0.0001", "1e-30", "1e-5000"])
def test_a_range_of_too_many_values_is_refused_whatever_its_length(step: str):
    with pytest.raises(UserError, match=str(MAX_AXIS_VALUES)):
        axis_values("noise_aug_strength", f"0:100:{step}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("motion_bucket_id", -1),
        ("motion_bucket_id", 1024),
        ("noise_aug_strength", -0.01),
        ("noise_aug_strength", 100.5),
        ("fps", 0),
        ("fps", 241),
        ("num_inference_steps", 0),
        ("num_inference_steps", 1001),
        ("min_guidance_scale", -0.1),
        ("max_guidance_scale", 101),
        ("decode_chunk_size", 0),
        ("decode_chunk_size", 1025),
        ("fps", 7.5),
        ("decode_chunk_size", 2.5),
        ("fps", float("nan")),
        ("noise_aug_strength", float("inf")),
        ("fps", False),
        ("fps", "7"),
        ("fps", None),
        pytest.param("fps", 10**400, id="fps-400-digits"),
    ],
)
def test_a_value_that_a_field_cannot_have_is_refused_with_field_value_and_what_is_accepted(name: str, value: Any):
    with pytest.raises(UserError, match=rf"{name}: .* is not accepted; give a .*number from \d+ to \d+"):
        cell_value(name, value)


def test_a_refusal_says_where_the_value_stands():
    with pytest.raises(UserError, match=r"^row 3, column fps: 0 "):
        cell_value("fps", 0, "row 3, column fps")


def test_minus_zero_is_zero():
    assert str(cell_value("noise_aug_strength", -0.0)) == "0.0"


def test_without_axes_there_is_the_default_cell_alone():
    assert expand(CELL, {}) == (CELL,)


def test_axes_that_are_none_are_not_swept():
    assert expand(CELL, {"fps": None, "motion_bucket_id": None}) == (CELL,)


def test_a_grid_is_ordered_with_the_last_field_varying_fastest_however_the_axes_are_given():
    cells = expand(CELL, {"noise_aug_strength": [0.1, 0.0], "motion_bucket_id": [240, 20]})
    assert [(c.motion_bucket_id, c.noise_aug_strength) for c in cells] == [
        (240, 0.1),
        (240, 0.0),
        (20, 0.1),
        (20, 0.0),
    ]


def test_fields_without_an_axis_keep_their_default():
    default = make_cell(fps=12, decode_chunk_size=3)
    assert {(c.fps, c.decode_chunk_size) for c in expand(default, {"motion_bucket_id": [1, 2]})} == {(12, 3)}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("motion_bucket_id", [1, 2]),
        ("noise_aug_strength", [0.0, 0.5]),
        ("fps", [5, 6]),
        ("num_inference_steps", [2, 3]),
        ("min_guidance_scale", [0.5, 1.5]),
        ("max_guidance_scale", [2.0, 4.0]),
        ("decode_chunk_size", [1, 2]),
        ("sampler", ["ays10", "euler"]),
        ("guidance_sigma_min", [0.0, 0.5]),
        ("guidance_sigma_max", [10.0, 1000.0]),
        ("deep_cache_interval", [1, 3]),
    ],
)
def test_every_field_of_a_cell_can_be_an_axis(name: str, values: list[Any]):
    assert [getattr(cell, name) for cell in expand(CELL, {name: values})] == values


def test_a_grid_of_more_than_a_million_cells_is_refused_before_it_is_made():
    axes = {"motion_bucket_id": "0:1000:1", "num_inference_steps": "1:1000:1"}
    with pytest.raises(UserError, match="1001000 cells"):
        expand(CELL, axes)


def test_listed_cells_change_only_the_fields_that_they_name_and_keep_their_order():
    cells = expand(CELL, {}, [{"motion_bucket_id": 240, "fps": 12}, {"motion_bucket_id": 20}, {}])
    assert cells == (make_cell(motion_bucket_id=240, fps=12), make_cell(motion_bucket_id=20), CELL)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], r"sweep\.cells: \[\]"),
        ("motion", r"sweep\.cells: 'motion'"),
        ({"fps": 7}, r"sweep\.cells"),
        (5, r"sweep\.cells: 5"),
        ([7], r"sweep\.cells\[0\]: 7"),
        ([{"fps": 7}, {"fpz": 7}], r"sweep\.cells\[1\]: unknown key fpz; the keys are motion_bucket_id, "),
        ([{"fps": 0}], r"sweep\.cells\[0\]\.fps: 0 "),
        ([{"fps": None}], r"sweep\.cells\[0\]\.fps: None "),
        ([{"fps": [5, 6]}], r"sweep\.cells\[0\]\.fps"),
        ([{"fps": 9}, {"fps": 5}, {"fps": 9.0}], r"sweep\.cells\[2\]: repeats sweep\.cells\[0\]"),
        ([{}, {"fps": 7}], r"sweep\.cells\[1\]: repeats sweep\.cells\[0\]"),
        ([{"min_guidance_scale": 5}], r"sweep\.cells\[0\]: min_guidance_scale=5 is above max_guidance_scale=3"),
    ],
)
def test_a_wrong_list_of_cells_is_refused_naming_the_cell(cells: Any, message: str):
    with pytest.raises(UserError, match=message):
        expand(CELL, {}, cells)


def test_cells_and_axes_exclude_each_other():
    with pytest.raises(UserError, match="cells and the axis fps exclude each other"):
        expand(CELL, {"fps": [5, 7]}, [{"motion_bucket_id": 20}])


def test_a_minimum_guidance_above_the_maximum_is_refused_anywhere_in_a_grid():
    with pytest.raises(UserError, match="min_guidance_scale=4 is above max_guidance_scale=3"):
        expand(CELL, {"min_guidance_scale": [1, 4]})


def test_a_minimum_guidance_equal_to_the_maximum_is_accepted():
    cell = make_cell(min_guidance_scale=3.0)
    assert check_cell(cell) is cell


def test_nothing_fixed_leaves_the_cells_as_they_are():
    cells = (CELL, make_cell(fps=5))
    assert apply_fixed(cells, ()) == cells


def test_a_fixed_field_collapses_its_axis_and_equal_cells_merge_in_order():
    cells = expand(CELL, {"motion_bucket_id": [20, 127], "fps": [12, 5]})
    assert apply_fixed(cells, (("motion_bucket_id", 99),)) == (
        make_cell(motion_bucket_id=99, fps=12),
        make_cell(motion_bucket_id=99, fps=5),
    )


def test_a_row_that_fixes_every_field_has_one_cell():
    cells = expand(CELL, {"motion_bucket_id": [20, 127], "fps": [12, 5]})
    assert apply_fixed(cells, tuple(dataclasses.asdict(CELL).items())) == (CELL,)


def test_the_fields_of_a_cell_are_the_names_that_diffusers_uses():
    assert (
        "motion_bucket_id",
        "noise_aug_strength",
        "fps",
        "num_inference_steps",
        "min_guidance_scale",
        "max_guidance_scale",
        "decode_chunk_size",
        *EXACT,  # these are ours
    ) == CELL_FIELDS


# --- approximations ---------------------------------------------------------------------------------------------


def test_a_sampler_is_a_word_or_a_list_of_words():
    assert [c.sampler for c in expand(CELL, {"sampler": "ays10"})] == ["ays10"]
    assert [c.sampler for c in expand(CELL, {"sampler": ["ays10", "euler"]})] == ["ays10", "euler"]


@pytest.mark.parametrize("value", ["heun", ["euler", "AYS10"], [10], 5, "euler:ays10:1", [None]])
def test_another_sampler_is_refused_with_those_that_there_are(value: Any):
    with pytest.raises(UserError, match=r"sweep\.sampler: .* is not accepted; give euler or ays10"):
        expand(CELL, {"sampler": value})


def test_a_sampler_given_twice_is_refused():
    with pytest.raises(UserError, match=r"sweep\.sampler: the value euler is there twice"):
        expand(CELL, {"sampler": ["euler", "euler"]})


def test_ays10_brings_its_ten_steps_where_only_the_sampler_is_given():
    both = expand(CELL, {"sampler": ["euler", "ays10"]})
    assert [(c.sampler, c.num_inference_steps) for c in both] == [("euler", 25), ("ays10", 10)]
    assert expand(CELL, {}, [{"sampler": "ays10"}])[0].num_inference_steps == 10
    assert apply_fixed((CELL, make_cell(num_inference_steps=4)), [("sampler", "ays10")]) == (
        make_cell(sampler="ays10", num_inference_steps=10),
    )


@pytest.mark.parametrize(
    ("axes", "cells"),
    [
        ({"sampler": ["euler", "ays10"], "num_inference_steps": [10, 25]}, None),
        ({}, [{"sampler": "ays10", "num_inference_steps": 25}]),
    ],
)
def test_ays10_beside_another_number_of_steps_is_refused(axes: dict[str, Any], cells: Any):
    with pytest.raises(UserError, match="sampler=ays10 has 10 steps; num_inference_steps=25 is not accepted with it"):
        expand(CELL, axes, cells)


def test_an_empty_band_of_guidance_is_refused():
    with pytest.raises(UserError, match="guidance_sigma_min=20 is above guidance_sigma_max=10"):
        expand(CELL, {"guidance_sigma_min": [0, 20], "guidance_sigma_max": 10})
