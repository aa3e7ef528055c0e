"""A disk that is full, broken or forbidden, and what killed runs leave outside of videos and records."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from builders import make_cell, make_frames, make_image, make_output, make_record

from svd_batch import cli, run, store, video
from svd_batch.committer import Committer
from svd_batch.config import MemoryConfig, ModelConfig, VideoConfig
from svd_batch.engine.generated import EngineInfo, Generated
from svd_batch.errors import UserError, is_storage, store_error
from svd_batch.load import LoadedUnit
from svd_batch.owner import machine, temporary_prefix
from svd_batch.records import FailureRecord, PlannedVideo, VideoRecord, WorkUnit
from svd_batch.report.posters import make_posters
from svd_batch.settings import GenerateSettings
from svd_batch.store import Store, owner_of

Write = Callable[[], VideoRecord | FailureRecord]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes one video into `tmp_path`/out."""
    monkeypatch.setattr("svd_batch.committer.ENCODER_PAUSE_S", 0.01)
    Store(tmp_path / "out").create()
    settings = GenerateSettings(str(tmp_path / "out"), ModelConfig(), "r", MemoryConfig(), VideoConfig(), "f")
    committer = Committer(settings, EngineInfo("cpu", "none", "none"))  # type: ignore[arg-type]
    planned = PlannedVideo("ab" * 10, make_cell(), 1, 0)
    loaded = LoadedUnit(WorkUnit(make_image(), (planned,)), np.zeros((32, 48, 3), np.uint8), "0" * 64, 0.0)
    generated: Any = Generated(make_frames(), 1, 1, 0.1, "fast", 0, 0.0, 0.1, 0.0)
    return lambda: committer.write(loaded, planned, generated)


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_an_encoder_that_a_full_disk_stopped_is_not_tried_once_more(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def encode(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise OSError("ffmpeg: error writing trailer")  # in words of its own

    monkeypatch.setattr(video, "write_video", encode)
    monkeypatch.setattr(store, "flush", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device"):
        write()
    assert len(tried) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_failing_disk_stops_the_run(code: int, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Store, "commit_video", failing(OSError(code, os.strerror(code))))
    with pytest.raises(OSError, match=os.strerror(code)):
        write()
    assert list((tmp_path / "out" / ".svd_batch" / "tmp").iterdir()) == []
    assert Store(tmp_path / "out").failures() == []


def test_a_link_among_the_folders_stops_the_run_and_blames_no_picture(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Store, "commit_video", failing(UserError("output: videos/ab is a symlink to /; …")))
    with pytest.raises(UserError, match="is a symlink"):
        write()
    assert Store(tmp_path / "out").failures() == []


def test_an_encoder_that_fails_on_a_full_disk_stops_the_run(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "write_video", failing(OSError("ffmpeg gave up")))
    monkeypatch.setattr(store, "flush", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write()


def test_an_encoder_that_fails_otherwise_costs_one_video(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(video, "write_video", failing(OSError("ffmpeg gave up")))
    failure = write()
    assert isinstance(failure, FailureRecord)
    assert (failure.stage, failure.error_message) == ("write", "ffmpeg gave up")
    assert list((tmp_path / "out" / ".svd_batch" / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", ["TERM", "KILL"])
def test_an_encoder_that_somebody_ended_is_started_once_more(
    number: str, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A batch system that ends a job sends its signal to every process, and the encoder may be the first to go."""
    real, once = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "once"
    program = tmp_path / "ffmpeg"
    program.write_text(f'#!/bin/sh\n[ -e {once} ] || {{ touch {once}; kill -{number} $$; }}\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    assert isinstance(write(), VideoRecord)
    assert once.exists()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_storage_error_is_told_in_one_sentence(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_verify", failing(OSError(code, os.strerror(code), "out/metadata.parquet")))
    assert cli.main(["verify", "out"]) == 2
    expected = f"error: out/metadata.parquet: {os.strerror(code)}; what is finished is kept, "
    assert capsys.readouterr().err == f"{expected}and the same command goes on once that is mended\n"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the system's temporary one."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_no_temporary_folder_is_made_for_one_job(temporary: Path) -> None:
    seen: list[list[Path]] = []
    cli._hydra(lambda _: seen.append(list(temporary.iterdir())), ["svd-batch run"])
    assert seen == [[]]


def test_the_temporary_folder_of_several_jobs_tells_whose_it_is(temporary: Path) -> None:
    seen: list[str] = []
    cli._hydra(lambda _: seen.extend(p.name for p in temporary.iterdir()), ["svd-batch run", "-m", "seed=1,2"])
    assert all(name.startswith(temporary_prefix()) for name in seen)
    assert len(seen) == 2
    assert list(temporary.iterdir()) == []


def test_a_killed_runs_temporary_folder_goes_where_nothing_is_left_to_do(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (temporary / f"svdb-4194305-{machine()[:4]}-x").mkdir()  # above the highest process id
    monkeypatch.setattr(run, "unreadable", lambda *_: [])
    monkeypatch.setattr(run.Generation, "__call__", lambda *_: None)
    assert cli.main(["run", "output=out", "backend=serial", "sweep.motion_bucket_id=[20]"]) == 0
    assert list(temporary.iterdir()) == []


def test_what_a_killed_actor_left_goes_at_the_end_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "out")
    left: list[Path] = []

    def generate(*_: Any) -> None:
        for path in (store.temporary("mp4"), store._write_pending(make_record())):
            name = path.name.split("-")
            left.append(path.with_name("-".join([name[0], "4194305", *name[2:]])))
            left[-1].touch()
            path.unlink(missing_ok=True)

    monkeypatch.setattr(run.Generation, "__call__", generate)
    assert cli.main(["run", "output=out", "backend=serial", "sweep.motion_bucket_id=[20]"]) == 0
    assert len(left) == 2
    assert not any(path.exists() for path in left)


def test_half_a_poster_lies_where_it_is_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_output(tmp_path / "out", image_ids=["cat"])
    monkeypatch.setattr(Path, "replace", failing(OSError(errno.EIO, "Input/output error")))
    name = next(store.records()).file_name
    assert make_posters(store, [name]) == [False]
    assert [p for p in (store.internal / "posters").rglob("*") if p.is_file()] == []
    assert all(owner_of(path) for path in store.temporary_dir.iterdir())


def test_an_error_that_was_raised_from_itself_is_looked_through_once() -> None:
    error = OSError(errno.ENOSPC, "full")
    error.__cause__ = error
    assert store_error(error) is None
    assert is_storage(error)
