"""A run while it goes on: real runs with W&B offline and with TensorBoard, and loggers that fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_failure, make_record
from conftest import tiny_overrides
from trackers import read_events, read_wandb, series, text

from svd_batch import cli as command_line
from svd_batch.backends import SerialBackend
from svd_batch.config import LoggerConfig, LoggerKind
from svd_batch.console import Console, Progress
from svd_batch.errors import UserError
from svd_batch.logger import RunLog, background
from svd_batch.logger.background import Background
from svd_batch.logger.values import Counts, of_video
from svd_batch.records import VideoRecord

Run = Callable[..., tuple[int, str, str]]
GRID = ["sweep.motion_bucket_id=[20,240]"]

pytestmark = pytest.mark.usefixtures("no_torch")


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_checkpoint: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """`svd-batch run` of one good and one missing picture in this process; W&B without account and network."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "home", "NETRC": "netrc", "WANDB_CONFIG_DIR": "config"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    pq.write_table(pa.table({"image_path": [str(pictures / "a.png"), "gone.png"]}), tmp_path / "m.parquet")
    tiny = tiny_overrides(tiny_checkpoint, 1)

    def call(*overrides: str, verb: str = "run") -> tuple[int, str, str]:
        code = command_line.main([verb, "backend=serial", *tiny, "manifest=m.parquet", "output=out", *overrides])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def test_wandb_gets_every_video_the_progress_the_failures_and_the_config_and_a_second_run_goes_on(
    run: Run, tmp_path: Path
) -> None:
    arguments = ["+logger=wandb", "logger.offline=true", "logger.project=pets", "logger.interval_s=0"]
    assert run(*GRID, *arguments, "logger.folder=log")[0] == 0
    run("sweep.motion_bucket_id=[20,127,240]", *arguments, "logger.folder=log2")
    (first,), (second,) = read_wandb(tmp_path / "log"), read_wandb(tmp_path / "log2")
    assert list(first.series("parameters/motion_bucket_id").values()) == [20, 240]
    assert all(value > 0 for value in first.series("seconds/denoise").values())
    assert first.summary["progress/done"] == 2
    assert first.summary["failures/load/ItemError"] == first.summary["progress/failed"] == 2
    assert first.summary["progress/videos_per_minute"] > 0
    assert first.config["generation"]["num_inference_steps"] == 1
    assert (first.run["project"], first.run["display_name"], first.exit_code) == ("pets", "out", 0)
    assert second.run["run_id"] == first.run["run_id"]
    assert min(second.series("parameters/motion_bucket_id")) > max(first.series("parameters/motion_bucket_id"))


def test_tensorboard_gets_every_video_the_progress_the_failures_and_the_config(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*GRID, "+logger=tensorboard", "logger.interval_s=0")
    folder = tmp_path / "out/.svd_batch/tensorboard"
    events = read_events(folder)
    assert code == 0
    assert "logger: tensorboard --logdir out/.svd_batch/tensorboard" in out
    assert list(series(events, "parameters/motion_bucket_id").values()) == [20, 240]
    assert list(series(events, "progress/done")) == [1, 2, 3, 4]
    assert series(events, "failures/load/ItemError")[4] == 2
    assert "num_inference_steps: 1" in text(events, "config")
    assert text(events, "exit_code") == "0"


def interrupt_after_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C come after the first result."""
    whole = SerialBackend.run

    def one(self: SerialBackend, *arguments: Any) -> Iterator[Any]:
        yield next(whole(self, *arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(SerialBackend, "run", one)


def test_ctrl_c_ends_the_log_with_what_was_finished_and_the_exit_code(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after_one(monkeypatch)
    assert run(*GRID, "+logger=wandb", "logger.offline=true")[0] == 130
    (found,) = read_wandb(tmp_path / "out/.svd_batch")
    assert (found.exit_code, found.summary["progress/done"]) == (130, 1)


def test_a_logger_that_can_not_write_is_told_once_and_the_run_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, _ = run(*GRID, "+logger=tensorboard", "logger.folder=file", "logger.interval_s=0")
    assert code == 0
    assert out.count("logger: TensorBoard failed and logs no more of this run: ") == 1
    assert pq.read_table(tmp_path / "out/metadata.parquet").num_rows == 2


def test_wandb_without_an_account_is_refused_before_anything_is_made(run: Run, tmp_path: Path) -> None:
    code, _, err = run("+logger=wandb")
    assert code == 2
    assert "error: +logger=wandb: no API key of W&B on this machine; run `wandb login`, or " in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_logger_whose_package_is_missing_is_refused_before_anything_is_made(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_batch.extras.is_installed", lambda package: False)
    code, _, err = run(f"+logger={name}")
    sentence = f"error: +logger={name}: the package {name} is not installed; pip install 'svd_batch[{name}]'\n"
    assert code == 2
    assert err.endswith(sentence)  # log handlers that earlier tests left behind may write before it
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["refine", "bench"])
def test_other_verbs_refuse_a_logger(verb: str, run: Run) -> None:
    assert f"error: logger: {verb} has no use for this section" in run("+logger=tensorboard", verb=verb)[2]


def test_a_finished_run_starts_no_logger(run: Run, tmp_path: Path) -> None:
    run(*GRID)
    code, out, _ = run(*GRID, "+logger=tensorboard", "logger.folder=log")
    assert (code, "logger:" in out, (tmp_path / "log").exists()) == (0, False, False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"project": "x"}, "logger.project: no logger is chosen"),
        ({"kind": LoggerKind.tensorboard, "offline": True}, "logger.offline: TensorBoard has no use for it"),
        ({"kind": LoggerKind.wandb, "name": " "}, "logger.name: the empty string is not accepted"),
        ({"kind": LoggerKind.wandb, "interval_s": -1}, "logger.interval_s: -1 is not accepted"),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LoggerConfig(**changes)


# --- what is logged --------------------------------------------------------------------------------------------


def test_a_videos_numbers_are_told_apart_as_parameters_metrics_and_seconds() -> None:
    values = of_video(make_record(generate_s=1.5))
    assert values["parameters/motion_bucket_id"] == 127
    assert values["seconds/generate"] == 1.5
    assert {key.split("/")[0] for key in values} == {"parameters", "seconds"}


def test_a_metric_that_a_record_has_is_logged_without_being_named_here() -> None:
    measured = {"motion": 1.25, "is_frozen": False, "new_metric": 2.0, "sharpness": None, "flicker": float("nan")}
    values = of_video(make_record(metrics=measured, seed=1))
    logged = {name: value for name, value in values.items() if name.startswith("metrics/")}
    assert logged == {"metrics/motion": 1.25, "metrics/is_frozen": 0, "metrics/new_metric": 2}
    assert values["parameters/seed"] == 1


def test_failures_are_counted_by_stage_and_error_and_the_step_goes_on_behind_earlier_runs() -> None:
    counts = Counts(num_before=10)
    for item in (make_record(), make_failure(), make_failure(), make_failure(stage="write", error_type="OSError")):
        counts.add(item)
    with Progress(4, Console()) as progress:
        values = counts.of_run(progress)
    assert (values["failures/load/ItemError"], values["failures/write/OSError"]) == (2, 1)
    assert (values["progress/done"], values["progress/failed"], counts.step) == (1, 3, 14)


# --- the thread ------------------------------------------------------------------------------------------------


class Slow:
    """A sink that takes nothing until it is told to go on."""

    name = "Slow"

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.steps: list[int] = []

    def start(self) -> str:
        self.may_go_on.wait(10)
        return "here"

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.steps.append(step)

    def finish(self, exit_code: int) -> None:
        self.steps.append(-exit_code)


def test_a_slow_sink_holds_up_nobody_and_gets_everything_in_the_end() -> None:
    sink = Slow()
    thread = Background(sink)
    start = time.monotonic()
    for step in range(1000):
        thread.put({"x": 1.0}, step)
    assert time.monotonic() - start < 1
    sink.may_go_on.set()
    thread.close(3)
    assert sink.steps == [*range(1000), -3]
    assert thread.take_notes() == ["logger: here"]
    assert thread.take_notes() == []


def test_a_sink_that_stays_stuck_is_left_alone_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CLOSE_S", 0.05)
    monkeypatch.setattr(background, "MOST_WAITING", 2)
    sink = Slow()
    thread = Background(sink)
    for step in range(5):
        thread.put({"x": 1.0}, step)
    thread.close(0)
    sink.may_go_on.set()
    notes = thread.take_notes()
    assert "logger: Slow has not taken everything in 0.05 s and is left alone" in notes
    assert "logger: 3 points were dropped, since Slow was too slow" in notes


def test_a_sink_that_fails_in_the_middle_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Slow):
        def log(self, values: Mapping[str, float], step: int) -> None:
            raise OSError(28, "No space left on device")

    sink = Broken()
    sink.may_go_on.set()
    thread = Background(sink)
    for step in range(3):
        thread.put({"x": 1.0}, step)
    thread.close(0)
    failures = [note for note in thread.take_notes() if "failed" in note]
    assert failures == ["logger: Slow failed and logs no more of this run: [Errno 28] No space left on device"]


def test_progress_is_logged_no_more_often_than_asked_for_and_once_more_at_the_end() -> None:
    sink = Slow()
    sink.may_go_on.set()
    seen: list[tuple[int, bool]] = []
    sink.log = lambda values, step: seen.append((step, "progress/done" in values))  # type: ignore[method-assign]
    log = RunLog(Background(sink), interval_s=3600)
    record: VideoRecord = make_record()
    with Progress(3, Console()) as progress:
        for _ in range(3):
            progress.update()
            log.add(record, progress)
    log.close()
    assert seen == [(1, True), (2, False), (3, False), (3, True)]
