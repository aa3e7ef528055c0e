"""Records in parts: many small files become one, nothing is lost or counted twice at any step."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import make_record

from svd_batch import dataset, parts
from svd_batch import store as store_module
from svd_batch.console import Console
from svd_batch.id_set import IdSet, pack
from svd_batch.records import VideoRecord
from svd_batch.recover import writing
from svd_batch.store import Store


def video_id(number: int) -> str:
    """Return an id that looks like ours."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**80:020x}"


def record(number: int, **changes: object) -> VideoRecord:
    """Return a record of a video that need not exist."""
    return make_record(video_id(number), **{"image_id": f"image {number // 4}", "seed": number, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a new output folder."""
    store = Store(tmp_path / "out")
    store.create()
    return store


def commit(store: Store, *records: VideoRecord) -> None:
    """Commit records whose videos are of no interest."""
    for one in records:
        store.commit(one)


def singles(store: Store) -> int:
    """Return how many records have files of their own."""
    return len(list(store.records_dir.glob("??/*.json")))


RECORDS = [record(i) for i in range(12)]


def test_records_in_a_part_are_the_same_records(store: Store) -> None:
    some = [
        record(1, metrics={"motion": 1.25, "is_broken": True}, metrics_source="frames", metrics_s=0.5),
        record(2, model_revision=None, memory_profile=None, image_path=None),
        record(3, metrics={"a metric of a later version": 2.0, "motion": float("inf")}),
    ]
    commit(store, *some)
    store.put_into_part(some)
    again = Store(store.root)
    assert singles(store) == 0
    assert sorted(again.records(), key=lambda r: r.seed) == some
    assert [again.read_record(one.video_id) for one in some] == some
    assert again.done_ids() == {one.video_id for one in some}
    assert again.num_records() == len(some)
    assert (again.is_done(some[0].video_id), again.is_done(video_id(99))) == (True, False)


def test_a_record_that_is_committed_again_counts_more_than_a_parts(store: Store) -> None:
    commit(store, *RECORDS)
    store.put_into_part(RECORDS)
    newer = replace(RECORDS[3], metrics={"motion": 2.0})
    commit(store, newer)
    assert store.read_record(newer.video_id) == newer
    assert len(store.done_ids()) == len(list(store.records())) == 12
    assert newer in list(store.records())
    store.put_into_part([newer])
    again = Store(store.root)
    assert (singles(store), again.read_record(newer.video_id)) == (0, newer)
    assert len(again.done_ids()) == len(list(again.records())) == 12
    assert dataset.compact(again).num_videos == 12


def test_forgetting_reaches_into_parts_and_an_older_row_does_not_count_again(store: Store) -> None:
    commit(store, *RECORDS)
    store.put_into_part(RECORDS[:6])
    store.put_into_part([replace(RECORDS[2], write_s=9.0), *RECORDS[6:]])
    store.forget(RECORDS[2].video_id)
    for one in (store, Store(store.root)):
        assert one.read_record(RECORDS[2].video_id) is None
        assert one.done_ids() == {r.video_id for r in RECORDS} - {RECORDS[2].video_id}
        assert len(list(one.records())) == 11


def test_a_part_that_was_written_anew_keeps_its_rank(store: Store) -> None:
    store.put_into_part(RECORDS[:2])
    store.put_into_part([replace(RECORDS[0], write_s=9.0)])
    store.forget(RECORDS[1].video_id)
    assert [r.write_s for r in Store(store.root).records()] == [9.0]


STEPS = ("part written beside", "part in place", "one file removed")
DYING = """
import os, signal, sys
from pathlib import Path
from svd_batch import store as module
from svd_batch.store import Store

step, move, count = int(sys.argv[1]), module.move, []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def move_and_die(temporary, path):
    if path.suffix == ".parquet" and step == 0:
        die()
    move(temporary, path)
    if path.suffix == ".parquet" and step == 1:
        die()

unlink = Store._unlink
def unlink_and_die(self, path):
    unlink(self, path)
    if step == 2:
        die()

module.move, Store._unlink = move_and_die, unlink_and_die
store = Store(Path(sys.argv[2]))
store.put_into_part(list(store.records()))
"""


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_a_part_is_made_every_record_counts_once(
    step: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, *RECORDS)
    command = [sys.executable, "-c", DYING, str(STEPS.index(step)), str(store.root)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert singles(store) == 12 - (step == "one file removed")
    assert (len(store.done_ids()), len(list(store.records()))) == (12, 12)
    monkeypatch.setattr(parts, "PART_ROWS", 2)
    with writing(store, Console()):
        assert singles(store) == 0
    assert dataset.compact(store).num_videos == 12
    assert sorted(store.records(), key=lambda r: r.seed) == RECORDS
    assert list(store.temporary_dir.iterdir()) == []


def test_killed_while_a_part_is_written_anew_the_new_version_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_into_part(RECORDS)
    monkeypatch.setattr(store.parts, "_remove", lambda path: None)  # what a kill before that leaves
    store.forget(RECORDS[0].video_id)
    again = Store(store.root)
    assert len(list(again.parts.folder.iterdir())) == 2
    assert (len(again.done_ids()), again.read_record(RECORDS[0].video_id)) == (11, None)
    with writing(again, Console()):
        assert len(list(again.parts.folder.iterdir())) == 1
    assert len(again.done_ids()) == 11


def test_what_is_put_into_a_part_while_another_process_reads_is_not_missed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, *RECORDS)
    reader, read_single = Store(store.root), Store.read_single

    def read_late(self: Store, video_id: str) -> VideoRecord | None:
        if self is reader:
            store.put_into_part([one for one in (read_single(store, r.video_id) for r in RECORDS) if one])
        return read_single(self, video_id)

    monkeypatch.setattr(Store, "read_single", read_late)
    assert len(list(reader.records())) == 12


def test_few_files_stay_as_they_are_and_many_become_parts_in_the_order_they_were_made(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, *RECORDS)
    store.tidy_records()
    assert singles(store) == 12
    monkeypatch.setattr(parts, "PART_ROWS", 5)
    store.tidy_records()
    found = [pq.read_table(path)["seed"].to_pylist() for path in store.parts.paths()]
    assert (singles(store), found) == (0, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]])


def test_the_table_of_parts_and_files_is_in_manifest_order_in_row_groups_of_whole_pictures(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.setattr(dataset, "ROW_GROUP", 5)
    monkeypatch.setattr(dataset, "_MOST_OPEN", 1)
    buckets = (9, 3, 200, 40)
    records = [
        record(4 * image + i, image_id=f"image {image}", motion_bucket_id=bucket)
        for i, bucket in enumerate(buckets)
        for image in (0, 4, 1, 3, 2)
    ]
    commit(store, *records)
    for part in (records[:3], records[3:9], records[9:16]):
        store.put_into_part(part)
    order = ["image 3", "image 0", "image 2", "image 1"]  # image 4 is in no manifest any more
    dataset.save_images(store, pa.table({"image_id": order, "caption": ["c", "a", "d", "b"]}))
    assert dataset.compact(store) == dataset.Totals(20, 5, 20_000)
    table = pq.read_table(store.metadata)
    expected = [(image, bucket) for image in [*order, "image 4"] for bucket in sorted(buckets)]
    found = list(zip(table["image_id"].to_pylist(), table["motion_bucket_id"].to_pylist(), strict=True))
    assert found == expected
    assert table["caption"].to_pylist() == [c for c in ("c", "a", "d", "b", None) for _ in range(4)]
    file = pq.ParquetFile(store.metadata)
    groups = [file.read_row_group(i)["image_id"].unique().to_pylist() for i in range(file.num_row_groups)]
    assert [image for group in groups for image in group] == [*order, "image 4"]
    assert len(groups) > 2
    assert table.equals(dataset.tables(store)[0])


# --- ids ----------------------------------------------------------------------------------------------------------


def test_a_set_of_ids_is_a_set() -> None:
    texts = {video_id(i) for i in range(500)}
    ids = IdSet.of([*texts, *texts, "an id of another form"])
    assert (len(ids), set(ids)) == (501, texts | {"an id of another form"})
    assert ids == texts | {"an id of another form"}
    assert all(text in ids for text in ids)
    assert video_id(500) not in ids
    assert texts < ids
    assert not ids <= texts


def test_many_ids_are_looked_up_at_once_also_those_that_share_their_first_digits() -> None:
    close = [f"{'ab' * 8}{i:04x}" for i in (3, 70, 1, 0xFFFF)]
    ids = IdSet.of([*close, *(video_id(i) for i in range(0, 100, 2))])
    asked = [*close, f"{'ab' * 8}0002", *(video_id(i) for i in range(100))]
    found = ids.contains(*pack("".join(asked).encode()))
    assert found.tolist() == [text in {*ids} for text in asked]
    assert found.sum() == 54


def test_ids_are_found_by_their_first_digits() -> None:
    texts = [f"3f9c{i:016x}" for i in range(3)] + [f"3f9d{0:016x}", f"3f9b{'f' * 16}"]
    ids = IdSet.of(texts[:-1]).with_others({texts[-1], "3f9c is no id"})
    assert ids.starting_with("3f9c") == ["3f9c is no id", *texts[:3]]
    assert ids.starting_with(texts[1]) == [texts[1]]
    assert ids.starting_with("0") == []


def test_late_ids_are_in_the_set_in_every_way() -> None:
    ids = IdSet.of(video_id(i) for i in range(10)).with_others({video_id(3), video_id(20)})
    assert len(ids) == 11
    assert ids.contains(*pack((video_id(20) + video_id(3) + video_id(21)).encode())).tolist() == [True, True, False]


def test_sets_are_equal_however_their_ids_are_kept() -> None:
    texts = {video_id(i) for i in range(10)}
    late = IdSet.of(texts - {video_id(3)}).with_others({video_id(3), "no id"})
    assert late == IdSet.of({*texts, "no id"})
    assert late == {*texts, "no id"}
    assert late != IdSet.of(texts)
    assert late != IdSet.of({*texts, "another"})
    assert late != IdSet.of({*(texts - {video_id(4)}), video_id(20), "no id"})


def test_large_sets_with_late_ids_are_compared_without_looking_each_id_up(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {video_id(i) for i in range(300)}
    sets = [IdSet.of(texts).with_others({video_id(late) for late in range(300, more)}) for more in (301, 301, 302)]
    looked_up: list[object] = []
    contains = IdSet.__contains__
    monkeypatch.setattr(IdSet, "__contains__", lambda s, text: looked_up.append(text) or contains(s, text))
    assert sets[0] == sets[1]
    assert sets[0] != sets[2]
    assert sets[2] == IdSet.of({*texts, video_id(300), video_id(301)})
    assert len(looked_up) <= 4


def test_nothing_is_taken_for_an_id_that_is_none() -> None:
    with pytest.raises(ValueError, match="20 hex digits"):
        pack(b"xy" * 10)


def test_a_damaged_part_is_told_of_by_its_name(store: Store) -> None:
    store.put_into_part(RECORDS)
    (path,) = store.parts.paths()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(store_module.UserError, match=r"000001\.parquet is damaged"):
        Store(store.root).done_ids()
