"""Tables of output folders to videos and axes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from builders import make_output
from sweep_tables import sweep, sweep_table, write_output

from svd_batch.analysis import read_videos, videos_of
from svd_batch.analysis.axes import MAX_VALUES, Axis, find_axes
from svd_batch.errors import UserError
from svd_batch.records import EXACT

MOTION = {"motion": lambda row: row["motion_bucket_id"] / 100}


def axes_of(videos) -> list[Axis]:
    return [coded.axis for coded in find_axes(videos)]


def test_a_folder_of_a_real_run_is_read(tmp_path: Path):
    store = make_output(tmp_path / "pets")
    videos = read_videos([store.root])
    assert (videos.names, videos.images, len(videos), len(videos.cells)) == (("pets",), ("cat", "dog"), 2, 1)
    assert videos.metrics == ()
    assert "generate_s" in videos.numeric


def test_a_column_of_the_manifest_called_output_is_not_taken_for_the_folders_name():
    tables = {}
    for name, value in (("cats", 1), ("dogs", 2)):
        table = sweep_table({"fps": [7, 12]}, metrics=MOTION)
        tables[name] = table.append_column("output", pa.array([value] * len(table)))
    assert {cell.output for cell in videos_of(tables).cells} <= {"cats", "dogs", None}
    assert videos_of({"cats": tables["cats"]}).cells[0].output is None


def test_cells_are_in_the_order_of_their_values_and_typed_as_fields_are():
    videos = sweep({"noise_aug_strength": [0.3, 0.02], "motion_bucket_id": [240, 20]}, metrics=MOTION)
    assert [(c.settings.motion_bucket_id, c.settings.noise_aug_strength) for c in videos.cells] == [
        (20, 0.02),
        (20, 0.3),
        (240, 0.02),
        (240, 0.3),
    ]
    assert type(videos.cells[0].settings.motion_bucket_id) is int
    assert videos.cells[0].output is None


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_null_nan_and_infinity_are_no_values(nothing):
    videos = sweep({"fps": [7, 12]}, pictures=1, metrics={"motion": lambda r: nothing if r["fps"] == 7 else 2.0})
    assert np.isnan(videos.values("motion")).tolist() == [True, False]


def test_a_metric_without_any_value_is_no_metric():
    table = sweep_table({"fps": [7, 12]}, metrics={"motion": lambda row: 1.0, "flicker": lambda row: math.nan})
    videos = videos_of({"pets": table.append_column("likeness", pa.nulls(len(table)))})
    assert videos.metrics == ("motion",)


def test_a_flag_is_read_as_zero_and_one():
    videos = sweep({"fps": [7, 12]}, pictures=1, metrics={"is_frozen": lambda row: row["fps"] == 12})
    assert videos.values("is_frozen").tolist() == [0.0, 1.0]


def test_a_carried_column_of_numbers_may_serve_as_a_metric_and_is_none_by_itself():
    videos = sweep({"fps": [7, 12]}, metrics={**MOTION, "beauty": lambda row: 5})
    assert "beauty" in videos.numeric
    assert videos.metrics == ("motion",)


def test_a_table_of_before_there_were_approximations_is_read():
    table = sweep_table({"fps": [7, 12]}, metrics=MOTION).drop_columns([*EXACT, "quality"])
    assert [a.name for a in axes_of(videos_of({"pets": table}))] == ["fps"]


def test_folders_of_other_settings_are_an_axis():
    a, b = (sweep_table({"fps": [7, 12]}, metrics=MOTION, fingerprint=f) for f in ("aaa", "bbb"))
    videos = videos_of({"svd": a, "xt": b})
    assert axes_of(videos)[0] == Axis("output", ("svd", "xt"))
    assert {c.output for c in videos.cells} == {"svd", "xt"}


def test_folders_of_the_same_settings_count_as_one_and_no_video_twice():
    table = sweep_table({"fps": [7, 12]}, metrics=MOTION)
    videos = videos_of({"a": table, "b": table})
    assert len(videos) == len(table)
    assert [a.name for a in axes_of(videos)] == ["fps"]


def test_two_folders_of_the_same_name_are_told_apart_by_their_paths(tmp_path: Path):
    roots = [
        write_output(tmp_path / f / "pets", sweep_table({"fps": [7]}, metrics=MOTION, fingerprint=f)) for f in "ab"
    ]
    assert len(set(read_videos(roots).names)) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "has no metadata.parquet; give the output folder of a run"), (b"junk", "is damaged")],
)
def test_a_folder_without_a_readable_table_is_refused(tmp_path: Path, content: bytes | None, words: str):
    if content:
        (tmp_path / "metadata.parquet").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_videos([tmp_path])


def test_a_table_of_something_else_is_refused_with_the_column_that_it_lacks(tmp_path: Path):
    with pytest.raises(UserError, match="has no column video_id"):
        read_videos([write_output(tmp_path / "x", pa.table({"a": [1]}))])


# --- axes -------------------------------------------------------------------------------------------------


def test_what_does_not_vary_is_no_axis():
    assert axes_of(sweep({"fps": [7]}, metrics=MOTION)) == []


def test_thirty_values_are_thirty_steps():
    (axis,) = axes_of(sweep({"motion_bucket_id": range(30)}, metrics=MOTION))
    assert axis.values == tuple(range(30))
    assert not axis.is_grouped


def test_more_values_than_a_page_can_show_are_grouped_and_said_to_be():
    (axis,) = axes_of(sweep({"motion_bucket_id": range(250)}, pictures=1, metrics=MOTION))
    assert axis.is_grouped
    assert len(axis.values) == MAX_VALUES
    assert list(axis.values) == sorted(axis.values)


def test_two_parameters_that_change_together_are_one_axis_that_names_both():
    pairs = {20: 7, 200: 12}
    videos = sweep(
        {"motion_bucket_id": [20, 200], "fps": [7, 12]},
        keep=lambda row: pairs[row["motion_bucket_id"]] == row["fps"],
        metrics=MOTION,
    )
    assert axes_of(videos) == [Axis("motion_bucket_id", (20, 200), also=("fps",))]


def test_presets_of_quality_stand_for_the_fields_that_they_set():
    steps = {"draft": 10, "final": 25}
    table = sweep_table(
        {"quality": ["draft", "final"], "num_inference_steps": [10, 25]},
        keep=lambda row: steps[row["quality"]] == row["num_inference_steps"],
        metrics=MOTION,
    )
    assert axes_of(videos_of({"pets": table})) == [
        Axis("quality", ("draft", "final"), also=("num_inference_steps",)),
    ]


def test_an_empty_table_has_no_axes(tmp_path: Path):
    assert axes_of(read_videos([write_output(tmp_path / "x", sweep_table({}, pictures=0, metrics={}))])) == []
