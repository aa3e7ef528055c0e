"""shard=K/N and `merge`: several runs over parts of one manifest make what one run makes, each video once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_output
from conftest import Cli

from svd_batch.config import Config, folder_settings
from svd_batch.console import Console
from svd_batch.errors import UserError
from svd_batch.lease import take
from svd_batch.manifest import read_manifest, shard_of
from svd_batch.merge import merge
from svd_batch.records import FailureRecord
from svd_batch.store import Store
from svd_batch.verify import problems


@pytest.fixture
def many(tmp_path: Path, pictures: Path) -> Path:
    """A manifest of 40 rows of one picture, with a carried column."""
    picture = str(next(path for path in pictures.iterdir() if path.suffix == ".png"))
    rows = {
        "image_id": [f"p{i}" for i in range(40)],
        "image_path": [picture] * 40,
        "caption": list(map(str, range(40))),
    }
    pq.write_table(pa.table(rows), tmp_path / "many.parquet")
    return tmp_path / "many.parquet"


def finished(root: Path, image_ids: list[str]) -> None:
    """Make a finished output folder with one clip for each image."""
    store = make_output(root, image_ids=image_ids)
    store.write_run({**store.read_run(), "settings": folder_settings(Config(), "f" * 40)})


def test_shards_hold_each_picture_once_and_a_longer_manifest_moves_none(many: Path, tmp_path: Path) -> None:
    whole = read_manifest([str(many)])
    shards = [shard_of(whole, k, 7) for k in range(1, 8)]
    found = [image.image_id for shard in shards for image in shard.images]
    assert sorted(found) == sorted(image.image_id for image in whole.images)
    assert all(shard.carried["image_id"].to_pylist() == [i.image_id for i in shard.images] for shard in shards)
    table = pq.read_table(many)
    pq.write_table(pa.concat_tables([table.slice(20), table.slice(0, 20)]), tmp_path / "other.parquet")
    again = shard_of(read_manifest([str(tmp_path / "other.parquet")]), 3, 7)
    assert {image.image_id for image in again.images} == {image.image_id for image in shards[2].images}


@pytest.mark.parametrize("value", ["0/4", "5/4", "3", "a/b", "-1/4", "1/0", ""])
def test_a_shard_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="shard: .* is not accepted; give K/N"):
        Config(shard=value)


def test_merged_shards_are_what_one_run_makes(tmp_path: Path, pets: Path, tiny: list[str], cli_here: Cli) -> None:
    common = [f"manifest={pets}", "backend=serial", "sweep.motion_bucket_id=[20,240]", "metrics.names=[]", *tiny]
    assert cli_here("run", *common, "output=whole").returncode == 0
    for k in (1, 2):
        assert cli_here("run", *common, f"shard={k}/2", f"output=part{k}").returncode in (0, 2)
    parts = [f"part{k}" for k in (1, 2) if Path(f"part{k}").exists()]
    done = cli_here("merge", *parts, "-o", "merged")
    assert done.returncode == 0, done.stderr
    one, other = (pq.read_table(f"{name}/metadata.parquet") for name in ("whole", "merged"))
    assert set(one.column_names) == set(other.column_names)
    same = ["video_id", "image_id", "seed", "file_name", "motion_bucket_id", "image_num_bytes"]
    assert one.select(same).sort_by("video_id") == other.select(same).sort_by("video_id")
    assert not list(problems(Path("merged")))
    assert Path("merged/report.html").is_file()
    row = next(Store(Path("merged")).records())
    sources = [Path(part) / row.file_name for part in parts]
    assert [path.samefile(f"merged/{row.file_name}") for path in sources if path.exists()] == [True]
    assert f"6 in {Path('merged/videos')}" in done.stdout
    again = cli_here("run", *common, "output=merged")  # it is an output as any other
    assert "6 of 6 done, nothing to do" in again.stdout


def test_a_repeated_merge_adds_what_is_new_and_keeps_what_was_there(tmp_path: Path) -> None:
    finished(tmp_path / "a", ["x", "y"])
    finished(tmp_path / "b", ["y", "z"])
    assert merge([tmp_path / "a"], tmp_path / "all", Console()) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "all/videos").rglob("*.mp4")}
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all", Console()) == 0
    table = pq.read_table(tmp_path / "all/metadata.parquet")
    assert sorted(set(table["image_id"].to_pylist())) == ["x", "y", "z"]
    assert table.num_rows == len(set(table["video_id"].to_pylist()))
    assert before.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "all/videos").rglob("*.mp4")}.items()
    assert not list(problems(tmp_path / "all"))


def test_failures_come_along_unless_another_folder_made_the_video(tmp_path: Path) -> None:
    finished(tmp_path / "a", ["x"])
    made = next(Store(tmp_path / "a").records())
    finished(tmp_path / "b", ["y"])
    for video_id, image_id in ((made.video_id, "x"), ("f" * 20, "z")):
        failed = FailureRecord(image_id, "p.png", video_id, "write", "OSError", "no", 1, made.created_at)
        Store(tmp_path / "b").record_failure(failed)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all", Console())
    assert pq.read_table(tmp_path / "all/failures.parquet")["image_id"].to_pylist() == ["z"]


def test_folders_of_other_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    finished(tmp_path / "a", ["x"])
    finished(tmp_path / "b", ["y"])
    store = Store(tmp_path / "b")
    run = store.read_run()
    run["settings"]["model.width"] = 4096
    store.write_run(run)
    with pytest.raises(UserError, match=r"b was made with model.width=4096"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all", Console())
    assert not (tmp_path / "all").exists()


def test_what_can_not_be_merged_is_a_sentence(tmp_path: Path) -> None:
    finished(tmp_path / "a", ["x"])
    with pytest.raises(UserError, match="is not an output folder"):
        merge([tmp_path / "none"], tmp_path / "all", Console())
    with pytest.raises(UserError, match="is the folder to merge into"):
        merge([tmp_path / "a"], tmp_path / "a", Console())
    shutil.rmtree(tmp_path / "a/videos")
    with pytest.raises(UserError, match="is missing; `svd-batch verify --forget"):
        merge([tmp_path / "a"], tmp_path / "all", Console())


def test_a_folder_that_is_being_written_gives_what_it_has_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "a", ["x"])
    store = Store(tmp_path / "a")
    store.lease_dir.mkdir(exist_ok=True)
    with take(store.lease_dir, store.root):
        assert merge([tmp_path / "a"], tmp_path / "all", Console()) == 0
    assert "is still being written" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "all/metadata.parquet").num_rows > 0
