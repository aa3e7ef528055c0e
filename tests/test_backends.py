"""The backends on a real Ray: what docs/architecture.md under "Ray" warns of does not happen."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from builders import make_failure, make_record

from svd_batch import backends
from svd_batch.backends import (
    MAX_TEMP_PATH,
    LoadSettings,
    RayBackend,
    RayGenerate,
    SerialBackend,
    _Arrived,
    _packed,
    _plain_error,
    _unpacked,
    remove_leftovers,
)
from svd_batch.config import BackendConfig, Fit, MemoryConfig, ModelConfig, SpeedConfig, VideoConfig
from svd_batch.errors import ProcessError, SvdBatchError, UserError
from svd_batch.load import load_image
from svd_batch.manifest import read_manifest
from svd_batch.metrics import METRICS
from svd_batch.owner import temporary_prefix
from svd_batch.place import Place
from svd_batch.plan import Request, Seeds, make_plan, split_units
from svd_batch.records import FailureRecord, Result, SweepCell, VideoRecord, WorkUnit, unit_from_json
from svd_batch.settings import GenerateSettings
from svd_batch.stages import MOST_TOGETHER, Generate
from svd_batch.store import Store

LOAD = LoadSettings(32, 32, Fit.crop)


def make_units(pets: Path, num_cells: int, steps: int, num_actors: int = 1) -> tuple[WorkUnit, ...]:
    cells = [SweepCell(bucket, 0.02, 7, steps, 1.0, 3.0, 3) for bucket in range(10, 10 + num_cells)]
    return tuple(split_units(make_plan(read_manifest([str(pets)]).images, Request(cells, Seeds(), {})), num_actors))


def settings(output: Path, checkpoint: Path) -> GenerateSettings:
    Store(output).create()
    return GenerateSettings(
        output=str(output),
        model=ModelConfig(id=str(checkpoint), name="tiny", num_frames=3, height=32, width=32),
        model_revision="r",
        memory=MemoryConfig(),
        video=VideoConfig(),
        fingerprint="f",
    )


@pytest.fixture(scope="module")
def ray_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayBackend]:
    """A backend that the tests of this file share, since each start of Ray takes seconds."""
    backend = RayBackend(BackendConfig(num_actors=[1, 2]))  # so that Ray has CPUs for two
    yield backend
    backend.stop(tmp_path_factory.mktemp("logs"))


def start(backend: RayBackend, config: BackendConfig) -> int:
    """Start the shared backend, or go on as if it had been started with these settings; return the most actors."""
    if not backend.started:
        backend.start()
    backend.config = config
    backend._fit_actors(backends._node_resources())
    return backend.num_actors[1]


def test_units_come_back_from_the_plans_file_in_order_a_chunk_at_a_time(pets: Path, tmp_path: Path) -> None:
    few = make_units(pets, 3, steps=1)
    units = [few[i % len(few)] for i in range(6000)]
    chunks = backends.write_units(iter(units), tmp_path / "units")
    texts = [list(backends.read_units(tmp_path / "units", *chunk)) for chunk in chunks]
    assert [unit_from_json(text) for some in texts for text in some] == units
    assert [len(some) for some in texts[:32]] == [1] * 16 + [2] * 16
    assert max(map(len, texts)) <= backends.UNITS_A_CHUNK
    assert len(chunks) < len(units) / 10
    assert backends.write_units(iter(()), tmp_path / "units") == []


def test_a_loading_task_yields_the_units_of_its_chunk_one_by_one_with_their_pictures(
    pets: Path, tmp_path: Path
) -> None:
    units = make_units(pets, 2, steps=1)
    path = tmp_path / "units"
    chunks = backends.write_units(units, path)
    batches = [pa.table({"start": [start], "length": [length]}) for start, length in chunks]
    tables = [table for batch in batches for table in backends._load_chunk(batch, plan_file=path, load=LOAD)]
    loaded = [backends._loaded_from_row(row) for table in tables for row in table.to_pylist()]
    assert [one.unit for one in loaded] == list(units)
    assert all(one.picture is not None and one.picture.shape == (32, 32, 3) for one in loaded)


def actor_processes() -> list[psutil.Process]:
    """Return the processes of our actor pool, found by the name that Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass
class Watched:
    """A run on one actor with three cells of three pictures, and what was there whenever a result came."""

    results: list[Result]
    done_at_arrival: list[int]
    plan: str
    """Ray Data's log, which has the operators that it made of the stages."""


@pytest.fixture(scope="module")
def watched(
    ray_backend: RayBackend, tiny_checkpoint: Path, pets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Watched:
    assert start(ray_backend, BackendConfig(torch_threads=2)) == 1
    store = Store(tmp_path_factory.mktemp("watched") / "out")
    seen = Watched([], [], "")
    one_by_one = replace(settings(store.root, tiny_checkpoint), speed=SpeedConfig(batch_size=1))
    for result in ray_backend.run(make_units(pets, 3, steps=40), LOAD, one_by_one):
        seen.results.append(result)
        seen.done_at_arrival.append(len(store.done_ids()))
    assert ray_backend.temporary is not None
    seen.plan = (ray_backend.temporary / "session_latest/logs/ray-data/ray-data.log").read_text()
    return seen


def test_each_record_arrives_before_the_next_video_is_done(watched: Watched) -> None:
    assert watched.done_at_arrival == list(range(1, 10))


def test_the_actor_does_not_load_pictures(watched: Watched) -> None:
    operators = "TaskPoolMapOperator[MapBatches(_load_chunk)] -> ActorPoolMapOperator[MapBatches(RayGenerate)]"
    assert operators in watched.plan


def test_actors_get_the_threads_that_were_asked_for_and_not_rays_single_one(watched: Watched) -> None:
    assert {r.torch_threads for r in watched.results if isinstance(r, VideoRecord)} == {2}


def test_ray_data_still_has_the_setting_by_which_an_actor_may_run_ahead() -> None:
    """It has no public name, and a private one that has changed would be set without an error and without effect."""
    from ray.data import DataContext

    assert DataContext()._max_num_blocks_in_streaming_gen_buffer == 2


def test_a_ray_of_our_own_serves_no_metrics(ray_backend: RayBackend) -> None:
    import ray

    start(ray_backend, BackendConfig())
    (node,) = ray.nodes()
    with socket.socket() as client, pytest.raises((OSError, OverflowError)):
        client.connect((node["NodeManagerAddress"], node["MetricsExportPort"]))


def test_the_next_unit_is_begun_while_the_last_videos_of_one_are_written(watched: Watched) -> None:
    videos = [record for record in watched.results if isinstance(record, VideoRecord)]
    spans = sorted((record.started_at or "", record.created_at, record.image_id) for record in videos)
    pairs = [(one, other) for one, other in pairwise(spans) if one[2] != other[2]]
    assert len(pairs) >= 2
    assert any(other[0] < one[1] for one, other in pairs)


def stubbed(act: Callable[[SweepCell, Path], None]) -> type[RayGenerate]:
    """Return the actor's class with the stub for its engine, which calls `act` with each cell and OUTPUT.

    Defined in a function, so that it travels by value.
    """
    tests = str(Path(__file__).parent)

    class Stubbed(RayGenerate):
        def __init__(self, settings: GenerateSettings, *, hide_gpus: bool = False) -> None:
            import sys

            from svd_batch import stages

            sys.path.insert(0, tests)
            from stub_engine import StubEngine

            output = Path(settings.output)
            stages._make_engine = lambda settings: StubEngine(lambda cell: act(cell, output))  # type: ignore[assignment, return-value]
            super().__init__(settings, hide_gpus=hide_gpus)

    return Stubbed


@pytest.mark.parametrize("seconds", [0.3, 0.03])  # results come one by one, and several together
def test_an_actor_of_a_pool_of_varying_size_killed_in_the_middle_of_a_unit_loses_and_doubles_nothing(
    seconds: float, ray_backend: RayBackend, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(cell: SweepCell, output: Path) -> None:
        time.sleep(seconds)

    monkeypatch.setattr(backends, "RayGenerate", stubbed(act))
    assert start(ray_backend, BackendConfig(num_actors=[1, 2], torch_threads=1)) == 2
    units = make_units(pets, 4, steps=1)
    assert len(units[0].videos) > 1
    results = []
    for result in ray_backend.run(units, LOAD, settings(tmp_path / "out", Path("/nowhere"))):
        results.append(result)
        if len(results) == 2:
            victims = actor_processes()
            for process in victims:
                process.send_signal(signal.SIGKILL)
    assert len(victims) in (1, 2)
    planned = sorted(video.video_id for unit in units for video in unit.videos)
    assert sorted(r.video_id for r in results if isinstance(r, VideoRecord)) == planned
    assert Store(tmp_path / "out").done_ids() == set(planned)


def test_an_actor_that_dies_after_the_last_result_of_a_unit_brings_none_twice(
    ray_backend: RayBackend, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that travelled together come one by one from the retry, so Ray takes the last of those for new ones."""

    class Dying(stubbed(lambda cell, output: None)):  # type: ignore[misc]
        def __call__(self, batch: Any) -> Iterator[Any]:
            yield from super().__call__(batch)
            once = Path(self.stage.settings.output) / "once"
            if not once.exists():
                once.touch()
                time.sleep(1)  # until all of it has arrived
                os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(backends, "RayGenerate", Dying)
    start(ray_backend, BackendConfig(num_actors=[1, 2], torch_threads=1))
    units = make_units(pets, 12, steps=1)
    results = list(ray_backend.run(units, LOAD, settings(tmp_path / "out", Path("/nowhere"))))
    assert (tmp_path / "out/once").exists()
    assert sorted(r.video_id for r in results if isinstance(r, VideoRecord)) == sorted(
        video.video_id for unit in units for video in unit.videos
    )


def rows_of(results: list[FailureRecord], groups: Sequence[int]) -> list[dict[str, Any]]:
    """Return what an actor hands on of one unit whose results come in groups of these sizes."""
    ends = list(accumulate(groups))
    return [
        {
            "unit": "a",
            "first": end - size,
            "ends_unit": end == len(results),
            "packed": _packed(results[end - size : end], ["a note"]),
        }
        for size, end in zip(groups, ends, strict=True)
    ]


@pytest.mark.parametrize("groups", [g for n in range(1, 5) for g in product((1, 2, 3, 4), repeat=n) if sum(g) == 4])
def test_a_unit_tried_again_after_any_hand_over_brings_each_result_once(groups: tuple[int, ...]) -> None:
    results = [make_failure(f"{i:020}") for i in range(4)]
    again = rows_of(results, [1] * 4)
    for num_before in range(len(groups) + 1):  # with the last one the unit is over, but Ray may not know
        arrived = _Arrived()
        rows = [*rows_of(results, groups)[:num_before], *again[num_before:]]  # Ray leaves out as many as there were
        assert [result for row in rows for result in arrived.new(row, _unpacked(row["packed"])[0])] == results


def test_the_units_that_are_over_and_still_known_are_the_last_ones() -> None:
    arrived = _Arrived(num_kept=2)
    rows = [{**rows_of([make_failure("v")], [1])[0], "unit": unit} for unit in "abc"]
    results: list[Result] = [make_failure("v")]
    assert [len(arrived.new(row, results)) for row in rows] == [1, 1, 1]
    assert [len(arrived.new(row, results)) for row in reversed(rows)] == [0, 0, 1]


def test_the_largest_hand_over_is_below_what_ray_keeps_on_a_node() -> None:
    random = np.random.default_rng(0)
    records: list[Result] = [
        make_record(
            video_id=random.bytes(10).hex(),
            video_sha256=random.bytes(32).hex(),
            image_path=random.bytes(250).hex(),
            metrics=dict(zip(METRICS, random.random(len(METRICS)).tolist(), strict=True)),
        )
        for _ in range(MOST_TOGETHER)
    ]
    assert len(_packed(records, [])) < 100 * 1024 * 0.8


def test_what_an_actor_hands_on_arrives_as_it_was() -> None:
    results: list[Result] = [make_record(image_id="a\nb\u2028c", metrics={"motion": 1.5}), make_failure("é" * 20)]
    assert _unpacked(_packed(results, ["a note\nof two lines"])) == (results, ["a note\nof two lines"])


def test_an_error_that_condemns_an_actor_replaces_it_and_one_that_dies_of_an_item_sets_it_aside(
    ray_backend: RayBackend, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(cell: SweepCell, output: Path) -> None:
        once = output / "once"
        if cell.motion_bucket_id == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.motion_bucket_id == 12 and not once.exists():
            once.touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(backends, "RayGenerate", stubbed(act))
    start(ray_backend, BackendConfig())
    every = make_units(pets, 3, steps=1)
    image = every[0].image
    units = (WorkUnit(image, tuple(video for unit in every if unit.image == image for video in unit.videos)),)
    results = list(ray_backend.run(units, LOAD, settings(tmp_path / "out", Path("/nowhere"))))
    outcomes = {r.video_id: r for r in results}
    assert len(outcomes) == len(results) == len(units[0].videos)
    failures = [r for r in results if not isinstance(r, VideoRecord)]
    killers = [v.video_id for v in units[0].videos if v.cell.motion_bucket_id == 11]
    assert [(f.video_id, f.error_type, f.attempts) for f in failures] == [(id_, "ProcessDied", 3) for id_ in killers]
    assert (tmp_path / "out/once").exists()


def test_a_second_serial_run_of_other_cells_goes_on_with_the_same_pipeline(
    tmp_path: Path, tiny_checkpoint: Path, pets: Path
) -> None:
    serial = SerialBackend(BackendConfig(torch_threads=1))
    engines = []
    try:
        for num_videos, steps in ((9, 1), (3, 2)):
            asked = replace(settings(tmp_path / "out", tiny_checkpoint), num_videos=num_videos)
            units = make_units(pets, 1, steps=steps)
            asked = replace(asked, heaviest=units[0].videos[0].cell)
            assert all(isinstance(r, VideoRecord) for r in serial.run(units, LOAD, asked))
            assert serial.stage is not None
            engines.append(serial.stage.engine)
    finally:
        serial.stop(tmp_path)
    assert engines[0] is engines[1]


def test_a_raylet_that_dies_before_the_first_task_is_a_sentence(
    ray_backend: RayBackend, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def fail(tables: Any) -> Any:
        raise ray.exceptions.LocalRayletDiedError

    monkeypatch.setattr(ray.data, "from_arrow", fail)
    start(ray_backend, BackendConfig())
    with pytest.raises(ProcessError, match="raylet died.*same command goes on"):
        list(ray_backend.run(make_units(pets, 1, steps=1), LOAD, settings(tmp_path / "out", Path("/nowhere"))))


def test_a_constructor_that_fails_ends_the_run_with_its_own_sentence(
    ray_backend: RayBackend, tmp_path: Path, pets: Path
) -> None:
    start(ray_backend, BackendConfig())
    with pytest.raises(SvdBatchError, match="model.id: no such folder: /nowhere"):
        list(ray_backend.run(make_units(pets, 1, steps=1), LOAD, settings(tmp_path / "out", Path("/nowhere"))))


def test_a_constructor_that_dies_ends_the_run_with_a_sentence_and_not_never(
    ray_backend: RayBackend, tmp_path: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(RayGenerate):
        def __init__(self, settings: GenerateSettings, *, hide_gpus: bool = False) -> None:
            from svd_batch import stages

            stages._make_engine = lambda settings: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, return-value]
            super().__init__(settings, hide_gpus=hide_gpus)

    monkeypatch.setattr(backends, "RayGenerate", Dying)
    start(ray_backend, BackendConfig())
    with pytest.raises(UserError, match="model: 3 processes ended while they loaded it"):
        list(ray_backend.run(make_units(pets, 1, steps=1), LOAD, settings(tmp_path / "out", Path("/nowhere"))))


def test_an_actor_that_ray_has_no_other_for_is_a_sentence_and_a_bug_keeps_its_traceback() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError

    told = _plain_error(ActorDiedError())
    assert isinstance(told, ProcessError)
    assert "The actor died unexpectedly" in str(told)
    assert "the same command goes on" in str(told)
    bug = _plain_error(RayTaskError("generate", "Traceback…", ValueError("a bug")))
    assert type(bug) is SvdBatchError


def test_more_actors_than_the_cluster_can_feed_are_refused_before_the_start() -> None:
    with pytest.raises(UserError, match="3 actors of 1 CPUs leave none of 3 for loading pictures"):
        RayBackend(BackendConfig(num_actors=3))._fit_actors([{"CPU": 3.0}])


def test_more_gpus_than_ray_sees_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match="asks for 1 GPUs and Ray sees 0; give 0 for the CPU"):
        RayBackend(BackendConfig(num_gpus=1))._fit_actors([{"CPU": 8.0}])


@pytest.mark.parametrize(
    ("config", "actors", "gpus"),
    [
        (BackendConfig(), (4, 4), 1.0),
        (BackendConfig(num_gpus=0.5), (8, 8), 0.5),
        (BackendConfig(num_gpus=2), (2, 2), 2.0),
        (BackendConfig(num_actors=[1, 3]), (1, 3), 1.0),
        (BackendConfig(num_gpus=0), (1, 1), 0.0),
    ],
)
def test_one_actor_a_gpu_unless_told_otherwise(config: BackendConfig, actors: tuple[int, int], gpus: float) -> None:
    backend = RayBackend(config)
    backend._fit_actors([{"CPU": 32.0, "GPU": 4.0}])
    assert (backend.num_actors, backend.num_gpus) == (actors, gpus)


@pytest.mark.parametrize(
    ("config", "nodes", "sentence"),
    [
        (BackendConfig(num_gpus=2, num_actors=3), [(8, 3), (8, 3)], r"on its nodes \(3 \+ 3\); give at most 2"),
        (BackendConfig(num_gpus=0.4, num_actors=5), [(8, 1), (8, 1)], r"on its nodes \(1 \+ 1\); give at most 4"),
        (BackendConfig(num_gpus=1, num_actors=4), [(2, 4), (16, 0)], "don't fit on Ray's nodes one by one; 2 do"),
    ],
)
def test_actors_are_counted_node_by_node(
    config: BackendConfig, nodes: list[tuple[float, float]], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        RayBackend(config)._fit_actors([{"CPU": cpus, "GPU": gpus} for cpus, gpus in nodes])


def test_a_node_without_gpus_counts_for_loading_alone() -> None:
    backend = RayBackend(BackendConfig())
    backend._fit_actors([{"CPU": 2.0, "GPU": 2.0}, {"CPU": 4.0}])
    assert backend.num_actors == (2, 2)


@pytest.mark.parametrize(
    ("place", "node", "num_nodes", "threads", "share"),
    [
        (Place(0.5, 1, 16), {"CPU": 8.0, "GPU": 4.0}, 3, 1, 0.5),  # eight actors here, two a GPU
        (Place(1, 1, 16), {"CPU": 8.0, "GPU": 1.0}, 3, 8, 1.0),  # one here: the node's cores are its own
        (Place(0, 1, 4), {"CPU": 8.0}, 2, 4, 0.5),
    ],
)
def test_each_actor_takes_its_share_of_its_own_node(
    place: Place, node: dict[str, float], num_nodes: int, threads: int, share: float
) -> None:
    assert place.share(node, num_nodes, num_cores=8) == (threads, share)


def test_a_retried_unit_yields_one_result_for_each_planned_video_in_order(
    tmp_path: Path, tiny_checkpoint: Path, pets: Path
) -> None:
    stage = Generate(settings(tmp_path / "out", tiny_checkpoint))
    unit = make_units(pets, 3, steps=1)[0]
    loaded = load_image(unit, 32, 32, Fit.crop)
    first = list(stage(loaded))
    stage.store.forget(unit.videos[-1].video_id)
    again = list(stage(loaded))
    assert [r.video_id for r in again] == [v.video_id for v in unit.videos]
    assert [r.created_at for r in again][:-1] == [r.created_at for r in first][:-1]


def test_a_caller_that_goes_away_ends_the_unit(tmp_path: Path, tiny_checkpoint: Path, pets: Path) -> None:
    stage = Generate(settings(tmp_path / "out", tiny_checkpoint))
    unit = make_units(pets, 12, steps=4)[0]
    assert len(unit.videos) > 4
    results = stage(load_image(unit, 32, 32, Fit.crop))
    next(results)
    results.close()
    stage._denoiser.shutdown(wait=True)
    stage._writers.shutdown(wait=True)
    assert len(stage.store.done_ids()) < len(unit.videos)


def test_the_temporary_folder_of_a_dead_run_is_removed_and_those_of_live_and_foreign_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_batch.backends._short_temp_folder", lambda: str(tmp_path))
    mine = temporary_prefix()
    dead = mine.replace(f"-{os.getpid()}-", "-4194305-")  # above the highest process id
    foreign = dead[:-2] + ("0" if dead[-2] != "0" else "1") + "-"  # of a container that has the same /tmp
    for name in (dead, mine, foreign):
        (tmp_path / f"{name}abcdefgh").mkdir()
    remove_leftovers()
    assert {p.name for p in tmp_path.iterdir()} == {f"{mine}abcdefgh", f"{foreign}abcdefgh"}


def test_rays_longest_socket_below_the_longest_temporary_folder_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 4194304)  # the highest there is
    session = f"session_2026-11-26_04-05-13_123456_{os.getpid()}"
    path = f"{'x' * MAX_TEMP_PATH}/{temporary_prefix()}abcdefgh/{session}/sockets/plasma_store"
    assert len(path) <= 107


def test_nothing_of_rays_is_left_when_a_run_is_over(ray_backend: RayBackend, tmp_path: Path) -> None:
    start(ray_backend, BackendConfig())
    folder = ray_backend.temporary
    assert folder is not None
    assert folder.exists()
    ray_backend.stop(tmp_path)  # who comes later starts it again
    deadline = time.monotonic() + 60
    while rays_processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not rays_processes()
    assert not folder.exists()


def rays_processes() -> set[str]:
    """Return the names of the living processes that Ray began on behalf of this one."""
    names = {p.name() for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}
    return {name for name in names if name in ("raylet", "gcs_server") or name.startswith("ray::")}


def test_an_actor_without_gpus_hides_them_from_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(backends, "Generate", lambda settings: settings)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    RayGenerate(settings(tmp_path, tmp_path), hide_gpus=True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_ray_that_does_not_start_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray raises a bare Exception where its raylet is killed while it starts; scripts/crashtest found it."""
    import ray

    def fail(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "init", fail)
    backend = RayBackend(BackendConfig())
    with pytest.raises(UserError, match=r"Ray did not start on this machine: The current node timed out"):
        backend.start()
    backend.stop(tmp_path)


@pytest.mark.parametrize(("mode", "is_told"), [(None, True), ("token", False)])
def test_who_is_not_let_in_without_a_token_is_told_how_to_show_one(
    mode: str | None, is_told: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray says no more than that it failed to connect, after 20 s."""
    import ray

    def fail(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at head:6379")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    backend = RayBackend(BackendConfig(address="head:6379"))
    with pytest.raises(UserError, match=r"did not start at head:6379: Failed to connect") as told:
        backend.start()
    assert ("RAY_AUTH_MODE=token" in str(told.value)) is is_told
    backend.stop(tmp_path)


def test_logs_that_can_not_be_kept_end_no_run_with_a_traceback(tmp_path: Path) -> None:
    """A full disk has been told of by then; scripts/crashtest --faults found it."""
    backend = RayBackend(BackendConfig())
    backend.temporary = tmp_path / "ray"
    (backend.temporary / "session_latest/logs").mkdir(parents=True)
    (backend.temporary / "session_latest/logs/raylet.out").touch()
    (tmp_path / "logs").touch()  # no folder can be made below it
    backend.stop(tmp_path / "logs")
    assert not (tmp_path / "ray").exists()


def test_a_joined_cluster_may_grow_until_the_actors_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler import sdk

    small = [{"CPU": 4.0}]
    seen = iter([small, small, [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}]])
    asked: list[list[dict[str, float]]] = []
    said: list[str] = []
    monkeypatch.setattr(backends, "_node_resources", lambda: next(seen))
    monkeypatch.setattr(sdk, "request_resources", lambda bundles: asked.append(bundles))
    backend = RayBackend(BackendConfig(address="auto", num_gpus=1, num_actors=[2, 8], wait_s=60))
    backend._wait_for_room(said.append)
    assert backend.num_actors == (2, 8)
    assert asked == [[{"CPU": 1.0, "GPU": 1}, {"CPU": 1.0, "GPU": 1}, {"CPU": 1.0}], []]
    (sentence,) = said
    assert sentence.startswith("waiting up to 60 s for more nodes: backend.num_gpus: an actor asks for 1 GPUs")


def test_this_machine_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_node_resources", lambda: [{"CPU": 4.0}])
    with pytest.raises(UserError, match="an actor asks for 1 GPUs"):
        RayBackend(BackendConfig(num_gpus=1, wait_s=60))._wait_for_room(print)


def test_what_ray_appends_to_an_error_of_ours_is_cut_off() -> None:
    from ray.exceptions import RayTaskError

    tried = "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s)."
    advice = "To change retry attempts, backoff, or which errors are retried, configure `ray.data.DataContext…`"
    error = UserError(f"storage: refused\n{tried}\n{advice}")
    assert str(_plain_error(RayTaskError("load", "Traceback…", error))) == "storage: refused"
