"""Nothing is written outside OUTPUT, whatever links somebody put into it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from builders import commit_video, make_output, make_record, make_store

from svd_batch import cli, dataset
from svd_batch.backends import _keep_logs
from svd_batch.config import Config
from svd_batch.console import Console
from svd_batch.errors import UserError
from svd_batch.store import Store


@pytest.mark.parametrize(
    "name",
    ["videos", ".svd_batch/records", ".svd_batch/failures", ".svd_batch/tmp", ".svd_batch/plan", ".svd_batch/logs"],
)
def test_an_output_with_a_folder_that_leads_outside_is_refused(name: str, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out/.svd_batch").mkdir(exist_ok=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"^output: .*/{name} is a symlink to .*; nothing is written through links"):
        Store(tmp_path / "out").create()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["videos/ab", ".svd_batch/records/ab", ".svd_batch/tmp"])
def test_a_folder_that_becomes_a_link_later_is_refused_before_writing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("svd_batch.store._LINK_S", 0.01)  # the second for which a look holds
    store = make_store(tmp_path / "out")
    time.sleep(0.02)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious.json").write_text("kept")
    folder = store.root / name
    if folder.exists():
        folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    record = make_record("ab" * 10)
    with pytest.raises(UserError, match="is a symlink to"):
        commit_through(store, record.file_name)
    if "records" in name:
        for call in (store.commit, lambda r: store.forget(r.video_id)):
            with pytest.raises(UserError, match="is a symlink to"):
                call(record)
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["precious.json"]


def commit_through(store: Store, file_name: str) -> None:
    """Put a file in its place and commit its record."""
    temporary = store.temporary("mp4")
    temporary.write_bytes(b"a clip")
    store.place(temporary, file_name)
    store.commit(make_record("ab" * 10))


@pytest.mark.parametrize("name", ["metadata.parquet", "failures.parquet", "README.md", ".svd_batch/run.json"])
def test_a_file_that_is_a_link_is_replaced_and_what_it_led_to_is_kept(name: str, tmp_path: Path):
    store = make_store(tmp_path / "out")
    commit_video(store)
    (tmp_path / "precious").write_text("kept")
    (store.root / name).unlink(missing_ok=True)
    (store.root / name).symlink_to(tmp_path / "precious")
    store.write_run({"format": 1})
    dataset.compact(store)
    dataset.write_card(store, Config().model, "f" * 40, 1, 1)
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (store.root / name).is_symlink()


def test_an_output_that_is_itself_a_link_is_the_persons_choice(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    store = make_store(tmp_path / "out")
    commit_video(store)
    assert list((tmp_path / "disk/videos").rglob("*.mp4"))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (".svd_batch/posters", ("report",)),
        ("report", ("report", "--markdown")),
        ("report/plots", ("report", "--markdown")),
        ("report", ("report", "--contact-sheets")),
        ("report/contact", ("report", "--contact-sheets")),
        ("exports", ("export", "--to", "csv")),
        ("exports/tensorboard", ("export", "--to", "tensorboard")),
        ("exports/vbench", ("export", "--to", "vbench")),
    ],
)
def test_reports_and_exports_are_not_written_through_links(
    name: str, command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = make_output(tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    (store.root / name).parent.mkdir(parents=True, exist_ok=True)
    (store.root / name).symlink_to(tmp_path / "elsewhere")
    code = cli.main([command[0], str(store.root), *command[1:]])
    assert not list((tmp_path / "elsewhere").iterdir())
    if "posters" not in name:  # the page does without them
        assert code == 2
        assert f"output: {store.root / name} is a symlink to" in capsys.readouterr().err


def test_logs_are_not_copied_or_written_through_links(tmp_path: Path):
    (tmp_path / "precious").mkdir()
    logs = tmp_path / "logs"
    (logs / "ray/old").mkdir(parents=True)
    (logs / "ray/old/link").symlink_to(tmp_path / "precious")
    (tmp_path / "session/old").mkdir(parents=True)
    (tmp_path / "session/old/link").write_text("a log")
    _keep_logs(tmp_path / "session", logs / "ray")
    assert not (logs / "ray/old/link").is_symlink()
    assert (logs / "ray/old/link").read_text() == "a log"
    (logs / "run.log").symlink_to(tmp_path / "precious/run.log")
    with pytest.raises(OSError, match="symbolic links"), Console().quiet(logs / "run.log"):
        pass
    assert not list((tmp_path / "precious").iterdir())
