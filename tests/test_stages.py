"""The Generate stage: its threads, and the metrics of what it makes."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_cell, make_image
from stub_engine import StubEngine

from svd_batch import metrics, stages, video
from svd_batch.config import Codec, MemoryConfig, ModelConfig, SpeedConfig, VideoConfig
from svd_batch.engine.pipeline import Engine
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline
from svd_batch.errors import ProcessError
from svd_batch.load import LoadedUnit, failure_of
from svd_batch.metrics import METRICS, Clip, measure
from svd_batch.records import FailureRecord, PlannedVideo, SweepCell, VideoRecord, WorkUnit
from svd_batch.settings import GenerateSettings
from svd_batch.stages import Generate
from svd_batch.store import Store
from svd_batch.video import read_frames

Made = Callable[..., tuple[VideoRecord, list[str]]]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Engine:
    model = ModelConfig(id=str(tiny_checkpoint), name="tiny", num_frames=3, height=32, width=32)
    return Engine(tiny_checkpoint, model, MemoryConfig(), SpeedConfig(), 1)


@pytest.fixture
def made(engine: Engine, tmp_path: Path) -> Iterator[Made]:
    """Makes one video and returns its record, and what was noted."""
    stages: list[Generate] = []

    def make(names: tuple[str, ...] = tuple(METRICS)) -> tuple[VideoRecord, list[str]]:
        Store(tmp_path).create()
        video = VideoConfig(codec=Codec.ffv1, quality=None)
        settings = GenerateSettings(
            str(tmp_path), engine.model, "r", MemoryConfig(), video, "f", torch_threads=1, metrics=names
        )
        stages.append(Generate(settings, lambda: engine))
        planned = PlannedVideo(f"{len(stages):020}", make_cell(num_inference_steps=1, decode_chunk_size=3), 1, 0)
        picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        loaded = LoadedUnit(WorkUnit(make_image(), (planned,)), picture, "0" * 64, 0.0)
        (record,) = stages[-1](loaded)
        assert not isinstance(record, FailureRecord), record.error_message
        return record, stages[-1].take_notes()

    yield make
    for stage in stages:
        stage.close()


def test_the_engine_is_loaded_in_the_thread_that_computes(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A second thread with an OpenMP pool of its own would slow every small operation down."""
    model = ModelConfig(id=str(tiny_checkpoint), name="tiny", num_frames=3, height=32, width=32)
    Store(tmp_path).create()
    loaded_in: list[str] = []

    def make_engine() -> Engine:
        loaded_in.append(threading.current_thread().name)
        return Engine(tiny_checkpoint, model, MemoryConfig(), SpeedConfig(), 1)

    stage = Generate(GenerateSettings(str(tmp_path), model, "r", MemoryConfig(), VideoConfig(), "f"), make_engine)
    assert loaded_in == [thread.name for thread in stage._denoiser._threads]
    stage.close()


UNIT = WorkUnit(make_image(), tuple(PlannedVideo(f"{i:020}", make_cell(motion_bucket_id=i), 1, 0) for i in range(5)))
UNIT_LOADED = LoadedUnit(UNIT, np.zeros((32, 32, 3), np.uint8), "0" * 64, 0.0)


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Callable[..., Generate]]:
    """Makes a stage whose engine does to each cell what the test says."""
    made: list[Generate] = []
    model = ModelConfig(id="nowhere", name="stub", num_frames=3, height=32, width=32)

    def make(act: Callable[[SweepCell], None] | None = None, num_writers: int = 1) -> Generate:
        Store(tmp_path).create()
        settings = GenerateSettings(str(tmp_path), model, "r", MemoryConfig(), VideoConfig(), "f")
        made.append(Generate(settings, lambda: StubEngine(act, num_writers=num_writers)))  # type: ignore[arg-type, return-value]
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def test_results_that_come_soon_after_the_last_are_handed_on_together(quick: Callable[..., Generate]) -> None:
    stage = quick()
    stage._handed_on = time.monotonic()  # those of the unit before
    assert [len(results) for results in stage.begin(UNIT_LOADED, hold_s=60)] == [5]


def test_no_more_results_are_handed_on_together_than_ray_sends_to_the_driver(
    quick: Callable[..., Generate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "MOST_TOGETHER", 3)
    stage = quick()
    stage._handed_on = time.monotonic()
    assert [len(results) for results in stage.begin(UNIT_LOADED, hold_s=60)] == [3, 2]


def test_the_next_lane_is_one_of_those_that_there_still_are(quick: Callable[..., Generate]) -> None:
    stage, works = quick(), [Future[None]() for _ in range(2)]
    stage._lanes = dict(enumerate(works))
    works[1].set_result(None)  # of two lanes one is left after a lack of memory
    timer = threading.Timer(0.2, works[0].set_result, [None])
    timer.start()
    assert stage._next_lane(1) == 0
    assert works[0].done()
    assert stage._next_lane(2) == 0
    assert stage._next_lane(3) == 2


def test_beside_a_gpu_videos_are_encoded_beside_each_other_and_every_one_is_committed(
    quick: Callable[..., Generate], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, two, begun = video.write_video, threading.Barrier(2), itertools.count()

    def in_twos(*arguments: Any) -> None:
        if next(begun) < 4:  # the fifth is alone
            two.wait(60)
        encode(*arguments)

    monkeypatch.setattr(video, "write_video", in_twos)
    stage = quick(num_writers=2)
    assert [type(result) for result in stage(UNIT_LOADED)] == [VideoRecord] * 5
    assert len(list(stage.store.root.glob("videos/**/*.mp4"))) == 5


def test_frames_do_not_pile_up_before_an_encoder_and_one_encodes_at_a_time(
    quick: Callable[..., Generate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten videos one more is made than there is room for, until the encoder goes on."""
    encode, goes_on, at_once = video.write_video, threading.Event(), threading.Semaphore(1)
    made: list[int] = []

    def wait_first(*arguments: Any) -> None:
        assert at_once.acquire(blocking=False), "two at a time"
        goes_on.wait(60)
        encode(*arguments)
        at_once.release()

    monkeypatch.setattr(video, "write_video", wait_first)
    stage = quick(lambda cell: made.append(cell.motion_bucket_id))
    videos = tuple(PlannedVideo(f"{i:020}", make_cell(motion_bucket_id=i), 1, 0) for i in range(10))
    results = stage(dataclasses.replace(UNIT_LOADED, unit=WorkUnit(make_image(), videos)))
    time.sleep(1)
    assert len(made) == stages.MAX_WRITING + 1
    goes_on.set()
    assert [type(result) for result in results] == [VideoRecord] * 10


def test_the_planning_thread_is_asked_once_for_all_groups_of_a_unit(
    quick: Callable[..., Generate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be asked for each, where no two cells share a batch, cost a quick engine a third of its time."""
    stage, asked = quick(), []
    monkeypatch.setattr(stage, "compute", lambda work, compute=stage.compute: (asked.append(work), compute(work))[1])
    monkeypatch.setattr(stage.engine, "batch_key", lambda cell: cell)
    assert [record.motion_bucket_id for record in stage(UNIT_LOADED)] == [0, 1, 2, 3, 4]
    assert len(asked) == 1


def test_what_was_made_before_an_error_is_handed_on_before_it(quick: Callable[..., Generate]) -> None:
    def end_at_the_fourth(cell: SweepCell) -> None:
        if cell.motion_bucket_id == 3:
            raise MemoryError

    got: list[Any] = []
    results = quick(end_at_the_fourth).begin(UNIT_LOADED, hold_s=60)
    with pytest.raises(ProcessError, match="MemoryError"):
        deque(map(got.extend, results))
    assert [record.motion_bucket_id for record in got] == [0, 1, 2]


def test_a_result_is_held_no_longer_than_it_may_be_while_the_next_is_made(quick: Callable[..., Generate]) -> None:
    seen, in_time = threading.Event(), []

    def wait_for_the_others(cell: SweepCell) -> None:
        if cell.motion_bucket_id == 3:
            in_time.append(seen.wait(60))

    sizes = []
    for results in quick(wait_for_the_others).begin(UNIT_LOADED, hold_s=0.5):
        sizes.append(len(results))
        if sum(sizes) == 3:
            seen.set()
    assert (sum(sizes), in_time) == (5, [True])


@pytest.mark.parametrize("earlier", ["a record", "a failure", "the picture's failure"])
def test_a_unit_of_which_anything_is_on_record_is_handed_on_one_by_one(
    earlier: str, quick: Callable[..., Generate]
) -> None:
    """A retried unit would else have yielded more after N times than its first try had, and Ray leaves those out."""
    stage = quick()
    if earlier == "a record":
        list(stage(dataclasses.replace(UNIT_LOADED, unit=dataclasses.replace(UNIT, videos=UNIT.videos[:1]))))
    else:
        planned = UNIT.videos[0] if earlier == "a failure" else None
        stage.store.record_failure(failure_of(UNIT, planned, "generate", OSError("once")))
    assert [len(results) for results in stage.begin(UNIT_LOADED, hold_s=60)] == [1] * 5


def test_a_video_has_every_metric_of_its_frames(made: Made, tmp_path: Path) -> None:
    record, notes = made()
    frames, _ = read_frames(tmp_path / record.file_name)  # lossless
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = measure(Clip(frames, record.playback_fps, picture), METRICS).values
    assert set(record.metrics) == set(METRICS)
    assert {name: record.metrics[name] for name in expected} == expected
    assert record.metrics_source == "frames"
    assert record.metrics_s is not None
    assert record.metrics_s > 0
    assert notes == []


def test_only_what_is_asked_for_is_measured(made: Made, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "embed", None)  # not called
    record, notes = made(("motion", "flicker"))
    assert (set(record.metrics), notes) == ({"motion", "flicker"}, [])


def test_without_metrics_a_record_says_of_none(made: Made) -> None:
    record, _ = made(())
    assert (record.metrics, record.metrics_source, record.metrics_s) == ({}, None, None)


def test_the_image_encoder_works_in_the_thread_that_computes(
    made: Made, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    embed = engine.embed
    monkeypatch.setattr(engine, "embed", lambda *a: (threads.append(threading.current_thread().name), embed(*a))[1])
    made()
    assert [name.split("_")[0] for name in threads] == ["denoise"]


def test_an_encoder_that_fails_costs_its_metrics_and_no_video(
    made: Made, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: a bad day")

    monkeypatch.setattr(engine, "embed", fail)
    record, notes = made()
    assert set(METRICS) - set(record.metrics) == {"clip_likeness", "clip_consistency"}
    assert notes == ["metrics: CLIP's are left out of a video: CUDA error: a bad day"]


def test_a_metric_that_fails_is_left_out_and_the_video_committed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dataclasses.replace(METRICS["sharpness"], measure=lambda clip: 1 / 0)
    monkeypatch.setitem(metrics.METRICS, "sharpness", broken)
    record, notes = made()
    assert set(METRICS) - set(record.metrics) == {"sharpness"}
    assert notes == ["metrics: sharpness can't be measured: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("names", [tuple(METRICS), ()])
def test_a_clip_with_a_nan_frame_is_kept_and_called_broken(
    names: tuple[str, ...], made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = SVDSweepPipeline.decode_latents

    def decode_one_badly(*arguments: Any, **options: Any) -> Any:
        frames = decode(*arguments, **options)  # (1, 3, T, H, W)
        frames[:, :, 1, :4] = float("nan")
        return frames

    monkeypatch.setattr(SVDSweepPipeline, "decode_latents", decode_one_badly)
    record, _ = made(names)
    assert record.metrics["is_broken"] is True
    frames, _ = read_frames(tmp_path / record.file_name)
    assert frames[1, :4].max() == 0
    assert frames[1, 4:].max() > 0
