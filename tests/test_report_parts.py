"""The parts of the report that count: columns, what stands out, costs, posters, the answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import commit_video, make_cell, make_frames, make_output, make_store
from PIL import Image
from test_report import Tags, data_of, row_of, sweep_of

from svd_batch import dataset
from svd_batch.report import write_report
from svd_batch.report.columns import column, rounded
from svd_batch.report.costs import devices, sessions, stages
from svd_batch.report.extremes import extremes, flagged
from svd_batch.report.folders import Folder, Sweep, read_sweep, sampled
from svd_batch.report.measures import measures
from svd_batch.report.posters import make_posters, poster_name
from svd_batch.report.watch import is_over, watch
from svd_batch.store import Store

# --- large folders ----------------------------------------------------------------------------------------------


def test_of_a_large_table_whole_pictures_are_taken_evenly_also_over_row_groups() -> None:
    pictures = [f"{i:03}" for i in range(30) for _ in range(4)]
    groups = [pa.table({"image_id": part}) for part in (pictures[:40], pictures[40:44], pictures[44:])]
    found = sampled(groups, len(pictures), most=40)["image_id"].to_pylist()
    assert found == [f"{i:03}" for i in range(0, 30, 3) for _ in range(4)]
    assert sampled(groups, len(pictures), most=120).num_rows == 120


@pytest.mark.parametrize("live", [False, True])
def test_a_page_of_a_part_of_the_videos_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool) -> None:
    store = make_output(tmp_path / "output", image_ids=["a", "b", "c", "d"], cells=[make_cell(fps=f) for f in (5, 7)])
    assert "There are 8 videos" not in Tags(write_report(store.root, live=live)).text
    monkeypatch.setattr("svd_batch.report.folders.MOST_ROWS", 4)
    assert read_sweep([store.root], live=live).table["image_id"].to_pylist() == ["a", "a", "c", "c"]
    text = " ".join(Tags(write_report(store.root, live=live)).text.split())
    assert "There are 8 videos. This page, all its figures included, was made from 4 of them" in text


# --- columns --------------------------------------------------------------------------------------------------


def unpacked(packed: dict[str, Any], pictures: list[int]) -> list[Any]:
    """Return a column's values, as the page's scripts unpack it."""
    if "same" in packed:
        return [packed["same"]] * len(pictures)
    if packed.get("picture"):
        return [packed["values"][picture] for picture in pictures]
    return [packed["values"][i] for i in packed["index"]] if "index" in packed else packed["each"]


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (["a", "a", "a", "a"], "same"),
        ([1, 1, 2, 2], "picture"),
        ([1, 2, 1, 2], "index"),
        ([None, None, None, None], "same"),
        ([None, 0.5, None, 0.25], "index"),
    ],
)
def test_a_column_arrives_as_it_was_in_the_shortest_form(values: list[Any], form: str):
    pictures = [0, 0, 1, 1]
    packed = column(pa.chunked_array([values]), pictures, exact=True)
    assert form in packed
    assert unpacked(packed, pictures) == values


def test_what_json_and_javascript_cannot_hold_becomes_null_or_text():
    values = pa.chunked_array([[float("nan"), float("inf"), 1.5]])
    assert unpacked(column(values, [0, 0, 0], exact=False), [0, 0, 0]) == [None, None, 1.5]
    assert column(pa.chunked_array([[2**60]]), [0], exact=True) == {"same": str(2**60)}


@pytest.mark.parametrize(("value", "short"), [(0.123456, 0.1235), (123456.7, 123500), (2.0, 2), (None, None)])
def test_floats_keep_four_digits(value: float | None, short: float | None):
    assert rounded(value) == short


# --- what stands out --------------------------------------------------------------------------------------------


def measured(motion: list[float | None], **others: list[Any]) -> Sweep:
    """Return videos with metrics."""
    rows = [row_of(video_id=f"{i:020x}", motion_bucket_id=i) for i in range(len(motion))]
    table = sweep_of(rows).table.append_column("motion", pa.array(motion, pa.float64()))
    for name, values in others.items():
        table = table.append_column(name, pa.array(values))
    return Sweep((), table)


def test_the_lowest_and_highest_clips_are_found_and_the_unmeasured_counted():
    sweep = measured([5.0, None, 1.0, 3.0, 2.0, 9.0, 7.0, 8.0, 4.0])
    (one,) = (found for found in extremes(sweep, list(measures(sweep))) if found.measure.name == "motion")
    assert (one.low, one.high) == ((2, 4, 3, 8, 0, 6), (5, 7, 6, 0, 8, 3))
    assert (one.ends, one.median, one.num_null, sum(one.counts)) == ((1.0, 9.0), 4.5, 1, 8)


def test_values_that_differ_by_rounding_alone_are_one_bar():
    sweep = measured([0.1, np.nextafter(0.1, 1), np.nextafter(0.1, 0)])
    (one,) = (found for found in extremes(sweep, list(measures(sweep))) if found.measure.name == "motion")
    assert one.counts == (3,)


def test_frozen_clips_are_counted_among_those_that_were_measured():
    sweep = measured([1.0, 2.0, 3.0], is_frozen=[True, None, False])
    (flag,) = flagged(sweep, list(measures(sweep)))
    assert (flag.count, flag.num_measured, flag.rows) == (1, 2, (0,))


def test_a_metric_of_which_nothing_was_measured_is_left_out():
    assert [m.name for m in measures(measured([None, None]))] == ["generate_s", "num_bytes"]


# --- costs ------------------------------------------------------------------------------------------------------


def committed(*seconds: tuple[float, float, int]) -> Sweep:
    """Return videos by (second of their record, seconds of generation, batch size), write_s being 0."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {
            **row_of(motion_bucket_id=i, generate_s=generate_s, batch_size=batch, write_s=0.0),
            "created_at": start + timedelta(seconds=end),
        }
        for i, (end, generate_s, batch) in enumerate(seconds)
    ]
    sweep = sweep_of(rows)
    return Sweep((Folder(Store(Path("out")), "out", sweep.table, pa.table({}), sweep.num_videos),), sweep.table)


def test_two_actors_that_never_rest_are_two_busy_ones():
    (session,) = sessions(committed(*[(10.0 * i, 10.0, 1) for i in (1, 2, 3) for _ in "ab"]))
    assert (session.seconds, session.mean, session.most) == pytest.approx((30, 2, 2))


def test_videos_of_one_batch_are_one_busy_actor():
    (session,) = sessions(committed(*[(10.0 * i, 5.0, 2) for i in (1, 2, 3) for _ in "ab"]))
    assert (session.seconds, session.mean) == pytest.approx((30, 1))


def test_the_moment_of_the_beginning_counts_where_a_row_has_it():
    sweep = committed((10.0, 10.0, 1), (25.0, 10.0, 1), (70.0, 10.0, 1))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    moments = [None, start + timedelta(seconds=10), start + timedelta(seconds=20)]
    started = pa.array(moments, pa.timestamp("ms", "UTC"))
    column = sweep.table.column_names.index("started_at")
    table = sweep.table.set_column(column, "started_at", started)
    (session,) = sessions(Sweep(sweep.folders, table))
    assert (session.seconds, session.mean) == pytest.approx((30, 1))


def test_a_long_pause_begins_a_new_session():
    found = sessions(committed((10, 10, 1), (20, 10, 1), (5000, 10, 1)))
    assert [session.seconds for session in found] == pytest.approx([20, 10])


def test_hours_and_stages_are_summed_up_by_device_and_folder():
    sweep = committed((10, 10, 1), (20, 20, 1))
    (device,) = devices(sweep)
    assert (device.name, device.num_videos, device.generate_s, device.slowest_s) == ("cpu", 2, 30, 20)
    (stage,) = stages(sweep)
    assert stage.seconds["denoise_s"] == pytest.approx(1.1)


# --- posters ----------------------------------------------------------------------------------------------------


def test_a_poster_is_the_first_frame_and_is_made_once(tmp_path: Path):
    store = make_store(tmp_path / "out")
    record = commit_video(store, frames=make_frames())
    poster = store.root / poster_name(record.file_name)
    assert make_posters(store, [record.file_name]) == [True]
    made = poster.stat().st_mtime_ns
    assert make_posters(store, [record.file_name]) == [True]
    assert poster.stat().st_mtime_ns == made
    with Image.open(poster) as picture:
        assert picture.size == (48, 32)


def test_a_poster_is_made_where_the_folder_of_temporary_files_is_gone(tmp_path: Path):
    store = make_store(tmp_path)
    record = commit_video(store)
    store.temporary_dir.rmdir()
    assert make_posters(store, [record.file_name]) == [True]
    assert (store.root / poster_name(record.file_name)).is_file()


def test_a_clip_that_is_gone_or_broken_has_no_poster(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    store = make_store(tmp_path / "out")
    record = commit_video(store)
    (store.root / record.file_name).write_bytes(b"no video")
    assert make_posters(store, [record.file_name, "videos/00/gone.mp4"]) == [False, False]
    assert capfd.readouterr().err == ""


# --- the answer -----------------------------------------------------------------------------------------------------


def test_without_metrics_the_answer_says_how_to_measure_them(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    assert f"svd-batch score {store.root}" in Tags(write_report(store.root)).text


def test_a_folder_without_a_video_has_no_answer(tmp_path: Path):
    store = make_store(tmp_path / "out")
    dataset.compact(store)
    assert "answer" not in [a.get("id") for _, a in Tags(write_report(store.root)).tags]


def test_the_answer_is_of_the_whole_table_and_shows_cells_of_the_grid(tmp_path: Path):
    store = make_output(
        tmp_path / "out", image_ids=["cat", "dog"], cells=[make_cell(motion_bucket_id=b) for b in (20, 240)]
    )
    table = pq.read_table(store.metadata)
    at = table.column_names.index("motion")
    table = table.set_column(at, "motion", pa.array([b / 100 for b in table["motion_bucket_id"].to_pylist()]))
    pq.write_table(table, store.metadata)
    tags = Tags(write_report(store.root))
    assert "motion_bucket_id 240 instead of 20 raises motion from 0.2 to 2.4\u00a0px a frame" in tags.text
    assert '{"motion_bucket_id":20}' in [a["data-cell"].replace(" ", "") for _, a in tags.tags if "data-cell" in a]


# --- watching and odd folders ---------------------------------------------------------------------------------------


def test_a_run_is_over_once_its_table_is_newer_than_its_start(tmp_path: Path):
    store = make_store(tmp_path / "out")
    assert not is_over(store)
    commit_video(store)
    dataset.compact(store)
    assert is_over(store)


def test_watching_waits_for_a_folder_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def begin(_: float) -> None:
        store = make_store(tmp_path / "out")
        commit_video(store)
        dataset.compact(store)

    monkeypatch.setattr("svd_batch.report.watch.time", SimpleNamespace(sleep=begin))
    assert data_of(watch([tmp_path / "out"], None, 1.0))["num"] == 1


def test_a_damaged_run_json_costs_the_recipes_and_not_the_page(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    store.run_json.write_text("{")
    recipes = data_of(write_report(store.root))["recipes"]
    assert (recipes["command"], recipes["script"]) == ({"same": None}, {"same": None})


def test_thirty_values_on_an_axis_all_arrive(tmp_path: Path):
    store = make_output(tmp_path / "out", image_ids=["cat"])
    row = pq.read_table(store.metadata).to_pylist()[0]
    rows = [{**row, "motion_bucket_id": i, "video_id": f"{i:020x}"} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), store.metadata)
    data = data_of(write_report(store.root))
    assert data["axes"][0]["values"] == list(range(30))
    assert len(data["missing"]) == 0
    assert data["file"] == {str(i): row["file_name"] for i in range(30)}


def test_ten_thousand_rows_stay_under_five_megabytes(tmp_path: Path):
    row = {**row_of(), **{f"carried_{i}": "some text" for i in range(3)}}
    cells = [make_cell(motion_bucket_id=m, noise_aug_strength=n / 50) for m in range(10) for n in range(10)]
    random = Random(0)
    rows = [
        {
            **row,
            "image_id": f"p{picture}",
            "video_id": f"{random.getrandbits(80):020x}",
            "motion_bucket_id": cell.motion_bucket_id,
            "noise_aug_strength": cell.noise_aug_strength,
            **{name: random.random() for name in ("motion", "likeness", "flicker", "generate_s", "denoise_s")},
        }
        for picture in range(100)
        for cell in cells
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    path = write_report(tmp_path)
    assert path.stat().st_size < 5_000_000
    assert json.loads(json.dumps(data_of(path)))["num"] == 10_000
