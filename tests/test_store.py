"""The output folder: atomic commits, failures, and reading back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from builders import make_failure, make_record, run_python

from svd_batch.errors import UserError
from svd_batch.records import VideoRecord
from svd_batch.store import Store, file_sha256, flush, move


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a new output folder."""
    store = Store(tmp_path / "output")
    store.create()
    return store


def written(store: Store, content: bytes = b"a clip") -> Path:
    """Return a finished temporary file."""
    path = store.temporary("mp4")
    path.write_bytes(content)
    return path


def commit(store: Store, record: VideoRecord, content: bytes = b"a clip") -> None:
    """Put a video in its place, then commit its record."""
    store.place(written(store, content), record.file_name)
    store.commit(record)


def files_below(folder: Path) -> list[Path]:
    """Return every file below a folder."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_opening_a_store_makes_nothing(tmp_path: Path):
    Store(tmp_path / "output")
    assert list(tmp_path.iterdir()) == []


def test_a_committed_video_lies_in_its_place_with_its_record(store: Store):
    record = make_record()
    commit(store, record)
    assert (store.root / record.file_name).read_bytes() == b"a clip"
    assert store.read_record(record.video_id) == record


def test_a_commit_leaves_no_temporary_file(store: Store):
    commit(store, make_record())
    assert files_below(store.temporary_dir) == []


@pytest.mark.parametrize("obstacle", ["no file", "a folder in its place"])
def test_a_video_that_can_not_be_put_in_its_place_has_no_record(store: Store, obstacle: str):
    record = make_record()
    temporary = written(store)
    if obstacle == "no file":
        temporary.unlink()
    else:
        (store.root / record.file_name).mkdir(parents=True)
    with pytest.raises(OSError, match=r"."):
        store.place(temporary, record.file_name)
    assert store.done_ids() == set()


def test_a_video_without_its_record_is_not_done(store: Store):
    record = make_record()
    store.place(written(store), record.file_name)
    assert store.done_ids() == set()
    assert store.read_record(record.video_id) is None


def test_a_second_commit_of_a_video_replaces_the_first(store: Store):
    commit(store, make_record(write_s=1.0))
    commit(store, make_record(write_s=2.0), b"again")
    assert [r.write_s for r in store.records()] == [2.0]
    assert (store.root / make_record().file_name).read_bytes() == b"again"


@pytest.mark.parametrize(
    "changes",
    [
        {"image_path": None, "model_revision": None},
        {"image_id": "../../x/Mümmel 猫\\", "image_path": 'a "quoted" path'},
        {"noise_aug_strength": 0.1 + 0.2, "generate_s": 1e-9, "seed": 2**63 - 1},
    ],
)
def test_a_record_is_read_back_as_it_was_written(store: Store, changes: dict[str, object]):
    record = dataclasses.replace(make_record(), **changes)
    commit(store, record)
    assert store.read_record(record.video_id) == record


def test_records_come_by_id_and_done_ids_name_them_all(store: Store):
    ids = ["ff" * 10, "00" * 10, "0a" * 10]
    for video_id in ids:
        commit(store, make_record(video_id))
    assert [r.video_id for r in store.records()] == sorted(ids)
    assert store.done_ids() == set(ids)


def test_a_forgotten_video_is_no_longer_done_and_may_be_forgotten_twice(store: Store):
    record = make_record()
    commit(store, record)
    store.forget(record.video_id)
    store.forget(record.video_id)
    assert store.done_ids() == set()


def test_a_folder_that_does_not_exist_has_nothing_done(tmp_path: Path):
    store = Store(tmp_path / "missing")
    assert (store.done_ids(), store.failures(), store.read_run(), store.exists()) == (set(), [], {}, False)


@pytest.mark.parametrize("item_id", ["cat", "../../x", "/etc/passwd", "a/b/c", "..", "x" * 512, "猫", "a:b*c?", " "])
def test_a_failure_is_kept_under_any_text_inside_the_folder(store: Store, item_id: str):
    outside = files_below(store.root.parent)
    failure = make_failure(item_id)
    store.record_failure(failure)
    assert store.failure(item_id) == failure
    new = set(files_below(store.root.parent)) - set(outside)
    assert all(path.resolve().is_relative_to(store.failures_dir.resolve()) for path in new)
    assert len(new) == 1


def test_a_later_failure_of_the_same_item_takes_the_place_of_the_earlier(store: Store):
    store.record_failure(make_failure("cat", attempts=1))
    store.record_failure(make_failure("cat", attempts=2))
    assert [f.attempts for f in store.failures()] == [2]


def test_an_image_and_its_videos_fail_apart(store: Store):
    store.record_failure(make_failure("cat"))
    store.record_failure(make_failure("cat", video_id="ab" * 10, stage="generate"))
    assert {f.item_id for f in store.failures()} == {"cat", "ab" * 10}


def test_a_committed_video_has_no_failure_any_more(store: Store):
    record = make_record()
    store.record_failure(make_failure(video_id=record.video_id))
    commit(store, record)
    assert store.failures() == []


def test_a_cleared_failure_is_gone_and_may_be_cleared_twice(store: Store):
    store.record_failure(make_failure("cat"))
    store.clear_failure("cat")
    store.clear_failure("cat")
    assert store.failure("cat") is None


def test_failures_from_before_and_after_a_look_for_them_are_cleared(store: Store):
    store.record_failure(make_failure("cat"))
    store.look_for_failures()
    store.record_failure(make_failure("dog"))
    for item_id in ("cat", "dog", "mouse"):
        store.clear_failure(item_id)
    assert store.failures() == []


@pytest.mark.parametrize("content", ["a file", "a folder"])
def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path: Path, content: str):
    if content == "a file":
        (tmp_path / "thesis.txt").write_text("mine")
    else:
        (tmp_path / "videos").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is not empty and was not made by svd_batch"):
        Store(tmp_path).create()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken(tmp_path: Path):
    Store(tmp_path).create()
    assert (tmp_path / "videos").is_dir()


def test_a_folder_of_ours_is_opened_again_with_all_that_is_in_it(store: Store):
    commit(store, make_record())
    again = Store(store.root)
    again.create()
    assert again.done_ids() == {make_record().video_id}


def test_a_place_that_can_not_be_a_folder_is_refused_in_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be made"):
        Store(tmp_path / "file" / "output").create()


def test_run_json_makes_a_folder_an_output_and_is_read_back(store: Store):
    assert not store.exists()
    store.write_run({"format": 1, "runs": [{"host": "Rechner-ü"}]})
    assert store.exists()
    assert store.read_run() == {"format": 1, "runs": [{"host": "Rechner-ü"}]}


@pytest.mark.parametrize("text", ["", "{", "not json", "[]", "null", "3"])
def test_a_damaged_run_json_is_told_in_a_sentence(store: Store, text: str):
    store.run_json.write_text(text)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        store.read_run()


def test_moving_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path: Path):
    target, temporary = tmp_path / "deep" / "table", tmp_path / "temporary"
    target.parent.mkdir()
    target.write_text("old")
    temporary.write_text("new")
    flush(temporary)
    move(temporary, target)
    assert files_below(tmp_path) == [target]
    assert target.read_text() == "new"


def test_a_reader_who_has_the_old_file_open_goes_on_reading_it_whole(store: Store):
    store.write_config("old: 1")
    with (store.internal / "config.yaml").open() as reader:
        store.write_config("new: 2")
        assert reader.read() == "old: 1"
    assert (store.internal / "config.yaml").read_text() == "new: 2"


def test_two_temporary_files_never_share_a_name_and_lie_on_the_same_file_system(store: Store):
    paths = [store.temporary("mp4") for _ in range(10)]
    assert len(set(paths)) == 10
    assert paths[0].parent.stat().st_dev == store.root.stat().st_dev


def test_records_of_any_language_are_read_where_the_locale_is_ascii(store: Store):
    record = make_record(image_id="猫", image_path="Mümmel.png")
    commit(store, record)
    store.record_failure(make_failure("hündchen"))
    store.write_run({"host": "ü"})
    code = (
        "import sys; from pathlib import Path; from svd_batch.store import Store; s = Store(Path(sys.argv[1]));"
        "print(ascii([r.image_id for r in s.records()]), ascii([f.image_id for f in s.failures()]), s.read_run())"
    )
    done = run_python(code, str(store.root), LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="utf-8")
    assert done.stdout.startswith(r"['\u732b'] ['h\xfcndchen']")


def test_a_sha256_is_that_of_the_whole_file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_damaged_record_is_told_in_a_sentence(store: Store, text: str):
    commit(store, make_record())
    (path,) = store.records_dir.glob("*/*.json")
    path.write_text(text)
    with pytest.raises(UserError, match="is damaged; delete it"):
        store.read_record(make_record().video_id)


def test_a_file_in_the_place_of_the_folder_is_refused_in_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; give a folder"):
        Store(tmp_path / "file").check_ours()
