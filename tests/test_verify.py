"""Whether a finished dataset is whole."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import commit_video, make_cell, make_output

from svd_batch import dataset
from svd_batch.config import Codec, VideoConfig
from svd_batch.errors import UserError
from svd_batch.records import VideoRecord
from svd_batch.store import Store, file_sha256
from svd_batch.verify import problems


@pytest.fixture
def output(tmp_path: Path) -> Store:
    """Return a finished folder of two clips."""
    return make_output(tmp_path / "output")


def first(store: Store) -> tuple[VideoRecord, Path]:
    """Return the first record and its file."""
    record = next(store.records())
    return record, store.root / record.file_name


def found(store: Store) -> list[tuple[str, str]]:
    """Return the problems as (video_id, reason)."""
    return [(p.video_id, p.reason) for p in problems(store.root)]


@pytest.mark.parametrize(
    "config",
    [
        VideoConfig(),
        VideoConfig(Codec.gif, None, None, False),
        VideoConfig(Codec.webp, 8.5, None, False),
        VideoConfig(Codec.ffv1, None, None, True),
    ],
    ids=lambda config: config.codec.value,
)
def test_a_whole_dataset_has_no_problems(tmp_path: Path, config: VideoConfig):
    store = make_output(tmp_path / "output", cells=[make_cell(fps=5), make_cell(fps=7)], config=config)
    assert found(store) == []


def test_a_missing_file_is_a_problem(output: Store):
    record, path = first(output)
    path.unlink()
    assert found(output) == [(record.video_id, f"{record.file_name} is missing")]


def test_a_folder_in_the_place_of_a_file_is_a_problem(output: Store):
    record, path = first(output)
    path.unlink()
    path.mkdir()
    assert found(output) == [(record.video_id, f"{record.file_name} is missing")]


def test_a_changed_byte_is_a_problem(output: Store):
    record, path = first(output)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert found(output) == [(record.video_id, f"{record.file_name} has another sha256 than the table says")]


def test_a_truncated_file_is_a_problem(output: Store):
    record, path = first(output)
    path.write_bytes(path.read_bytes()[:-10])
    ((video_id, reason),) = found(output)
    assert video_id == record.video_id
    assert f"has {record.num_bytes - 10} bytes; the table says {record.num_bytes}" in reason


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"num_frames": 5}, "has 4 frames of 48x32; the table says 5 of 48x32"),
        ({"width": 64}, "has 4 frames of 48x32; the table says 4 of 64x32"),
        ({"height": 64}, "has 4 frames of 48x32; the table says 4 of 48x64"),
    ],
)
def test_a_clip_of_other_frames_or_size_than_the_table_states_is_a_problem(
    output: Store, stated: dict[str, int], reason: str
):
    record = commit_video(output, "owl", **stated)
    dataset.compact(output)
    assert found(output) == [(record.video_id, f"{record.file_name} {reason}")]


def test_a_file_that_matches_its_row_but_does_not_decode_is_a_problem_told_on_one_line(output: Store):
    path = output.temporary("mp4")
    path.write_bytes(b"no video")
    record = commit_video(output, "owl", num_bytes=path.stat().st_size, video_sha256=file_sha256(path))
    path.replace(output.root / record.file_name)
    dataset.compact(output)
    ((video_id, reason),) = found(output)
    assert video_id == record.video_id
    assert "does not decode" in reason
    assert "\n" not in reason


def test_a_file_without_a_row_is_a_problem(output: Store):
    (output.root / "videos" / "stray.mp4").write_bytes(b"from elsewhere")
    assert found(output) == [("stray", "videos/stray.mp4 has no row in metadata.parquet")]


def test_a_row_that_is_there_twice_is_a_problem(output: Store):
    table = pq.read_table(output.metadata)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), output.metadata)
    video_id = table["video_id"][0].as_py()
    assert found(output) == [(video_id, "is in metadata.parquet 2 times")]


def test_several_problems_are_all_told_in_the_order_of_the_table(output: Store):
    records = pq.read_table(output.metadata).to_pylist()
    for row in records:
        (output.root / row["file_name"]).unlink()
    assert [video_id for video_id, _ in found(output)] == [row["video_id"] for row in records]


@pytest.mark.parametrize("lacking", ["everything", "table", "run.json"])
def test_a_folder_that_is_no_output_is_refused(output: Store, tmp_path: Path, lacking: str):
    if lacking == "table":
        output.metadata.unlink()
    if lacking == "run.json":
        output.run_json.unlink()
    root = tmp_path / "nothing" if lacking == "everything" else output.root
    with pytest.raises(UserError, match="is not an output folder of svd_batch"):
        list(problems(root))


def test_a_table_without_rows_is_whole(tmp_path: Path):
    assert found(make_output(tmp_path / "output", image_ids=())) == []


def test_a_finished_video_that_the_table_lacks_is_told_apart(output: Store):
    pq.write_table(pq.read_table(output.metadata).slice(1), output.metadata)
    (problem,) = problems(output.root)
    assert problem.is_finished
    assert "the same run command adds it" in problem.reason


def test_a_damaged_table_is_refused_in_a_sentence(output: Store):
    output.metadata.write_bytes(output.metadata.read_bytes()[:50])
    with pytest.raises(UserError, match="is damaged; the same run command writes it anew"):
        list(problems(output.root))
