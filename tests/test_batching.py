"""Videos made at once: the same pixels as alone, a size that measurement chose, failures that stay their own."""

from __future__ import annotations

import dataclasses
import mmap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_image, make_store

from svd_batch import ids
from svd_batch.backends import ahead
from svd_batch.config import Codec, MemoryConfig, ModelConfig, SpeedConfig, VideoConfig
from svd_batch.engine.batching import BatchSize, Lanes, batch_key
from svd_batch.engine.pipeline import Engine
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline
from svd_batch.load import LoadedUnit
from svd_batch.records import FailureRecord, PlannedVideo, SweepCell, VideoRecord, WorkUnit
from svd_batch.settings import GenerateSettings
from svd_batch.stages import Generate
from svd_batch.video import read_frames

CELL = SweepCell(127, 0.02, 7, 2, 1.0, 3.0, 2)
CELLS = [dataclasses.replace(CELL, motion_bucket_id=b, noise_aug_strength=n) for b in (20, 240) for n in (0.02, 0.3)]
PICTURE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def make_engine(folder: Path, threads: int, **speed: Any) -> Engine:
    model = ModelConfig(id=str(folder), name="tiny", num_frames=3, height=32, width=32)
    return Engine(folder, model, MemoryConfig(), SpeedConfig(**speed), threads)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def grow(sizes: BatchSize, seconds: dict[int, float], available: int = 100, rounds: int = 20) -> list[int]:
    """Return the sizes chosen, where a video in a batch of each size takes some seconds."""
    chosen = []
    for _ in range(rounds):
        size = sizes.choose(available)
        chosen.append(size)
        sizes.measured(size, size * seconds.get(size, 99.0))
    return chosen


def test_a_batch_is_doubled_as_long_as_that_makes_more_videos_a_second() -> None:
    chosen = grow(BatchSize(64), {1: 1.0, 2: 0.6, 4: 0.4, 8: 0.39})
    assert chosen[:9] == [1, 1, 1, 2, 2, 4, 4, 8, 8]
    assert set(chosen[9:]) == {4}  # 8 gained less than noise does


def test_a_batch_that_is_slower_is_left_after_two_rounds() -> None:
    assert grow(BatchSize(64), {1: 1.0, 2: 1.1})[3:] == [2, 2, *[1] * 15]


def test_a_batch_is_never_larger_than_what_fits_or_is_there() -> None:
    always = {2**i: 1 / 2**i for i in range(10)}
    assert max(grow(BatchSize(4), always)) == 4
    assert max(grow(BatchSize(64), always, available=3)) == 3
    sizes = BatchSize(64)
    grow(sizes, always)
    sizes.limit(2)
    assert set(grow(sizes, always)) == {2}


def test_a_given_size_is_not_measured() -> None:
    assert grow(BatchSize(64, fixed=3), {3: 99.0}, rounds=4) == [3] * 4


@pytest.mark.parametrize(
    "change",
    [{"num_inference_steps": 3}, {"max_guidance_scale": 1.0}, {"decode_chunk_size": 1}, {"deep_cache_interval": 2}],
)
def test_cells_of_another_schedule_share_no_batch(change: dict[str, Any]) -> None:
    assert batch_key(dataclasses.replace(CELL, **change)) != batch_key(CELL)
    assert {batch_key(cell) for cell in CELLS} == {batch_key(CELL)}


@pytest.mark.parametrize("interval", [1, 2])
def test_videos_beside_each_other_on_a_cpu_have_the_pixels_of_each_alone_to_the_bit(
    interval: int, tiny_checkpoint: Path
) -> None:
    cells = [dataclasses.replace(cell, deep_cache_interval=interval, num_inference_steps=3) for cell in CELLS]
    beside = make_engine(tiny_checkpoint, 4).generate_batch(PICTURE, [(cell, 5) for cell in cells])
    alone = make_engine(tiny_checkpoint, 1)
    for cell, future in zip(cells, beside, strict=True):
        made = future.result()
        assert (made.batch_size, made.torch_threads) == (4, 1)
        assert np.array_equal(made.frames, alone.generate(PICTURE, cell, 5).frames)


def test_one_call_for_several_cells_is_at_most_one_step_from_each_alone(tiny_checkpoint: Path) -> None:
    engine = make_engine(tiny_checkpoint, 1)
    together = engine._together(PICTURE, [(cell, 5) for cell in CELLS])  # what a GPU does
    for cell, future in zip(CELLS, together, strict=True):
        (made,) = future.result()
        assert made.batch_size == 4
        assert np.abs(made.frames.astype(int) - engine.generate(PICTURE, cell, 5).frames).max() <= 1


def test_lanes_hold_no_weights_twice(tiny_checkpoint: Path) -> None:
    engine = make_engine(tiny_checkpoint, 3)
    pipes = [future.result() for future in engine._lanes.run([lambda pipe: pipe] * 3, 3)]
    assert len({id(pipe) for pipe in pipes}) == len({id(pipe.scheduler) for pipe in pipes}) == 3
    assert len({p.data_ptr() for pipe in pipes for p in pipe.unet.parameters()}) == len(
        [*engine.pipe.unet.parameters()]
    )


def test_lanes_run_at_the_same_time_and_share_the_threads() -> None:
    both = threading.Barrier(2, timeout=30)
    seen = [f.result() for f in Lanes(PipeOfParts()).run([lambda pipe: (both.wait(), torch.get_num_threads())] * 2, 4)]
    assert [threads for _, threads in seen] == [2, 2]


class PipeOfParts:
    """Just enough of a pipeline to be copied."""

    def __init__(self, **parts: Any) -> None:
        self.unet: Any = torch.nn.Identity()
        self.scheduler = self.known = self.split_guidance = None
        self.components = parts
        self._progress_bar_config: dict[str, Any] = {}

    def set_progress_bar_config(self, **config: Any) -> None:
        self._progress_bar_config = config


def unit_of(cells: list[SweepCell], first: int = 0) -> LoadedUnit:
    videos = tuple(PlannedVideo(f"{i:02x}" * 10, cell, 5, 0) for i, cell in enumerate(cells, first))
    return LoadedUnit(WorkUnit(make_image(), videos), PICTURE, "0" * 64, 0.0)


def stage_of(engine: Engine, root: Path) -> Generate:
    store, video = make_store(root), VideoConfig(codec=Codec.ffv1, quality=None)
    settings = GenerateSettings(str(store.root), engine.model, "f" * 40, MemoryConfig(), video, "0" * 12)
    return Generate(settings, lambda: engine)


def results_of(engine: Engine, cells: list[SweepCell], root: Path) -> list[Any]:
    stage = stage_of(engine, root)
    try:
        return list(stage(unit_of(cells)))
    finally:
        stage.close()


def test_results_come_in_plan_order_although_batches_take_cells_out_of_it(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    cells = [dataclasses.replace(CELL, num_inference_steps=s, fps=f) for f in (5, 7, 9) for s in (2, 3)]
    results = results_of(make_engine(tiny_checkpoint, 2, batch_size=2), cells, tmp_path / "out")
    assert [(r.fps, r.num_inference_steps) for r in results] == [(c.fps, c.num_inference_steps) for c in cells]
    assert [r.batch_size for r in results] == [2] * 6  # no lane waits for a group to end


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Lets `before` see each call of the pipeline, by motion bucket, and counts how many run at once."""
    seen = SimpleNamespace(before=lambda bucket: None, running=0, most=0, buckets=[])
    call, lock = SVDSweepPipeline.__call__, threading.Lock()

    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        with lock:
            seen.running += 1
            seen.most = max(seen.most, seen.running)
            seen.buckets.append(kwargs["motion_bucket_id"])
        try:
            seen.before(kwargs["motion_bucket_id"])
            return call(self, *args, **kwargs)
        finally:
            with lock:
                seen.running -= 1

    monkeypatch.setattr(SVDSweepPipeline, "__call__", told)
    return seen


def cells_of(*buckets: int) -> list[SweepCell]:
    return [dataclasses.replace(CELL, motion_bucket_id=bucket) for bucket in buckets]


def test_a_lane_goes_on_while_the_other_is_at_a_long_video(
    tiny_checkpoint: Path, tmp_path: Path, calls: SimpleNamespace
) -> None:
    others = threading.Semaphore(0)

    def before(bucket: int) -> None:
        if bucket == 2:  # 0 and 1 are a batch, by which the engine finds out what fits
            assert all(others.acquire(timeout=60) for _ in range(3))
        elif bucket > 2:
            others.release()

    calls.before = before
    results = results_of(make_engine(tiny_checkpoint, 2, batch_size=2), cells_of(*range(6)), tmp_path / "out")
    assert [(r.batch_size, r.torch_threads, r.motion_bucket_id) for r in results] == [(2, 1, b) for b in range(6)]
    assert calls.most == 2


def test_a_lane_goes_on_with_the_next_picture_while_the_other_is_at_the_last_of_this_one(
    tiny_checkpoint: Path, tmp_path: Path, calls: SimpleNamespace
) -> None:
    both = threading.Barrier(2, timeout=60)
    calls.before = lambda bucket: both.wait() if bucket in (2, 3) else None
    engine = make_engine(tiny_checkpoint, 2, batch_size=2)
    stage = stage_of(engine, tmp_path / "out")
    units = [unit_of(cells_of(0, 1, 2)), unit_of(cells_of(3, 4), first=3)]
    try:
        results = [result for results in ahead(map(stage, units)) for result in results]
    finally:
        stage.close()
    assert [r.motion_bucket_id for r in results] == list(range(5))
    calls.before = lambda bucket: None
    alone = make_engine(tiny_checkpoint, 1)
    for record in results:
        frames, _ = read_frames(tmp_path / "out" / ids.video_path(record.video_id, "mkv"))
        expected = alone.generate(PICTURE, cells_of(record.motion_bucket_id)[0], 5).frames
        assert np.array_equal(frames, expected)


def test_the_last_videos_too_few_for_every_lane_share_all_cores(
    tiny_checkpoint: Path, tmp_path: Path, calls: SimpleNamespace
) -> None:
    results = results_of(make_engine(tiny_checkpoint, 2, batch_size=2), cells_of(*range(5)), tmp_path / "out")
    assert [(r.batch_size, r.torch_threads) for r in results] == [(2, 1)] * 4 + [(1, 2)]


def test_a_video_that_runs_out_of_memory_in_a_lane_is_made_alone_and_no_two_at_once_after_it(
    tiny_checkpoint: Path, tmp_path: Path, calls: SimpleNamespace
) -> None:
    def before(bucket: int) -> None:
        if bucket == 3 and calls.buckets.count(3) == 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        if calls.buckets.count(3) > 1 and bucket >= 3:
            assert calls.running == 1

    calls.before = before
    engine = make_engine(tiny_checkpoint, 2, batch_size=2)
    results = results_of(engine, cells_of(*range(8)), tmp_path / "out")
    assert [getattr(result, "error_message", "") for result in results] == [""] * 8
    assert calls.buckets.count(3) == 2
    assert engine.num_lanes(CELL) == 1
    assert [r.batch_size for r in results[-2:]] == [1, 1]


def test_a_lane_waits_for_who_wants_to_be_alone_and_the_other_way_round() -> None:
    lanes, order = Lanes(PipeOfParts()), []
    waits = threading.Event()

    def alone() -> None:
        waits.set()
        with lanes.alone():
            order.append("alone")

    def lane() -> None:
        with lanes.taken(1, 1):
            order.append("lane 1")

    with lanes.taken(0, 1):
        first = threading.Thread(target=alone)
        first.start()
        waits.wait()
        time.sleep(0.1)
        second = threading.Thread(target=lane)
        second.start()
        time.sleep(0.1)
        order.append("lane 0")
    for thread in (first, second):
        thread.join(60)
    assert order == ["lane 0", "alone", "lane 1"]


def test_a_lane_knows_the_peak_of_its_own_time_though_another_begins_to_count_anew() -> None:
    lanes = Lanes(PipeOfParts())
    with lanes.taken(0, 1):
        with mmap.mmap(-1, 60 << 20) as memory:
            memory.write(b"1" * (60 << 20))
        with lanes.taken(1, 1):
            later = lanes.peak_bytes(1)
        assert lanes.peak_bytes(0) > later + (40 << 20)


def test_a_video_that_fails_takes_no_other_of_its_batch_along(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = SVDSweepPipeline.__call__

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["motion_bucket_id"] == 240:
            raise RuntimeError("no 240 today")
        return call(self, *args, **kwargs)

    monkeypatch.setattr(SVDSweepPipeline, "__call__", failing)
    results = results_of(make_engine(tiny_checkpoint, 2, batch_size=2), [CELLS[0], CELLS[2]], tmp_path / "out")
    assert [type(result) for result in results] == [VideoRecord, FailureRecord]
    assert results[1].error_message == "no 240 today"


def test_seconds_of_videos_made_at_once_add_up_to_the_time_that_passed(tiny_checkpoint: Path) -> None:
    made = [f.result() for f in make_engine(tiny_checkpoint, 2).generate_batch(PICTURE, [(c, 5) for c in CELLS[:2]])]
    for video in made:
        assert video.condition_s + video.denoise_s + video.decode_s <= video.generate_s
    assert made[0].generate_s == made[1].generate_s
