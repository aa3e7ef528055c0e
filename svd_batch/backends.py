"""The same stages run serially, or on Ray Data. Each backend only translates; it knows nothing of the engine.

Ray facts that shape this file are in docs/architecture.md under "Ray".
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from svd_batch import checkpoint, ray_watch
from svd_batch.access import ACCESS, Access
from svd_batch.attempts import loading
from svd_batch.config import BackendConfig, Fit
from svd_batch.errors import ProcessError, SvdBatchError, UserError, causes, is_storage, store_error
from svd_batch.load import LoadedUnit, load_image
from svd_batch.locations import location, read_range
from svd_batch.owner import is_left_behind, temporary_prefix
from svd_batch.place import Place
from svd_batch.ray_metrics import RunMetrics
from svd_batch.records import (
    FailureRecord,
    Result,
    VideoRecord,
    WorkUnit,
    from_dict,
    to_json,
    unit_from_json,
    unit_to_json,
)
from svd_batch.settings import GenerateSettings
from svd_batch.stages import Generate
from svd_batch.stopping import leave_behind, take_again
from svd_batch.store import Store

_ADVICE = re.compile(r"\s*Failed to [^.]* after \d+/\d+ attempts \(total backoff.*", re.DOTALL)
"""What Ray Data 2.60 appends to the message of an error that a stage raises."""

LOAD_CPUS = 0.5
"""CPUs of a loading task. Not the actors' number, or Ray Data fuses loading into the actor and the GPU waits for it."""

UNITS_A_CHUNK = 256
"""Units of the plan that one task reads and loads the pictures of, at most."""

TWO_UNITS = {"max_concurrent_calls_per_actor": 2, "enable_true_multi_threading": True}
"""An actor is given its next unit while it writes the last videos of one; `Generate` denoises one after the other."""

RESULTS_AHEAD = 16
"""Results of an actor, and pictures of a loading task, that Ray Data takes at a time.

It looks ten times a second: with its own 2, an actor could make 20 videos a second.
"""

HOLD_S = 0.25
"""How long a result may be kept to be handed on with the next ones: each time that something is handed on costs Ray
Data many milliseconds of processor time, whatever it is, and the serial backend a thread that wakes up."""

UNITS_KEPT = 100_000
"""Units that are over and still known by name, 130 B each: more than end while Ray replaces an actor."""

MAX_TEMP_PATH = 16
"""A socket's path may have 107 bytes. Ray puts them up to 64 below its folder, whose own name has up to 26."""


@dataclass(frozen=True)
class LoadSettings:
    """All that the load stage needs."""

    height: int
    width: int
    fit: Fit
    access: Access = ACCESS


T = TypeVar("T")
Say = Callable[[str], None]
"""Takes a sentence for the person who waits."""


def _ignore(text: str) -> None:
    pass


def _say_all(say: Say, notes: Sequence[str]) -> None:
    for note in notes:
        say(note)


class Backend(Protocol):
    """Runs units through the stages. `start` first, `stop` always."""

    def start(self, say: Say = _ignore) -> int:
        """Get ready and return the largest number of actors; `say` is told what is waited for."""

    def run(
        self, units: Iterable[WorkUnit], load: LoadSettings, generate: GenerateSettings, say: Say = _ignore
    ) -> Iterator[Result]:
        """Yield one result for each planned video, each as soon as it is committed; `say` gets the engines' notes."""

    def stop(self, logs: Path) -> None:
        """End everything that `start` began and copy logs to `logs`."""

    def drop(self) -> None:
        """Do what little can be done when the process ends at once."""


def ahead(begun: Iterable[T]) -> Iterator[T]:
    """Yield each item when the one after it is there too: so the next unit is begun before the results of one end."""
    several = iter(begun)
    for item in several:
        for following in several:
            yield item
            item = following
        yield item


class SerialBackend:
    """One process, one pipeline, no Ray."""

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self.stage: Generate | None = None

    def start(self, say: Say = _ignore) -> int:
        """Return 1."""
        return 1

    def run(
        self, units: Iterable[WorkUnit], load: LoadSettings, generate: GenerateSettings, say: Say = _ignore
    ) -> Iterator[Result]:
        """Yield results in plan order."""
        settings = replace(generate, torch_threads=self.config.torch_threads)
        if self.stage is not None and _same_pipeline(self.stage.settings) != _same_pipeline(settings):
            self.stage.close()
            self.stage = None
        self.stage = self.stage or _loaded_stage(settings)  # a second run goes on with the same pipeline
        _say_all(say, self.stage.take_notes())
        loaded = (load_image(unit, load.height, load.width, load.fit, load.access) for unit in units)
        for several in ahead(self.stage.begin(unit, HOLD_S) for unit in loaded):
            for results in several:
                _say_all(say, self.stage.take_notes())
                yield from results

    def stop(self, logs: Path) -> None:
        """Wait for the video in the making, or the tables would be written without it; drop it where it takes long."""
        if self.stage is not None:
            if not self.stage.close():
                leave_behind()
            self.stage = None

    def drop(self) -> None:
        """Do nothing: threads end with the process."""


def _loaded_stage(settings: GenerateSettings) -> Generate:
    try:
        return Generate(settings)
    except KeyboardInterrupt:
        leave_behind()  # the thread that loads the model
        raise


def _same_pipeline(settings: GenerateSettings) -> GenerateSettings:
    """Return the settings without what only helps a pipeline to choose how it is loaded."""
    return replace(settings, num_videos=None, heaviest=None)


class RayBackend:
    """Ray Data: loading as CPU tasks, generation in a pool of actors that each hold one pipeline."""

    def __init__(self, config: BackendConfig, *, verbose: bool = False) -> None:
        self.config = config
        self.verbose = verbose
        self.temporary: Path | None = None
        self.num_actors = (1, 1)
        self.num_gpus = 0.0
        self.started = False
        self.is_asking = False
        self._watched = threading.Event()

    def start(self, say: Say = _ignore) -> int:
        """Start Ray here or join the cluster, check that the actors fit, and return the largest number of them.

        Raises: UserError when Ray doesn't start, or the cluster is too small and doesn't grow within `wait_s`.
        """
        _quiet_environment()
        import ray

        most_asked = (self.config.num_actors or [1, 1])[1]
        options: dict[str, Any] = {"log_to_driver": self.verbose, "logging_level": "info" if self.verbose else "error"}
        if self.config.address is None:
            _check_token_folder()
            self.temporary = _make_temporary()
            options |= {
                "address": "local",
                "include_dashboard": False,
                "_system_config": {"enable_metrics_collection": False},  # an open port that nobody knows of
                "_temp_dir": str(self.temporary),
                "num_cpus": max(
                    num_cores(), math.ceil(most_asked * self.config.num_cpus) + 1
                ),  # logical: loading needs one
            }
        else:
            options["address"] = self.config.address
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises that very class where its raylet dies or is slow
            with suppress(Exception):
                ray.shutdown()  # what has come up would go on writing into the temporary folder
            where = f"at {self.config.address}" if self.config.address else "on this machine"
            shows_none = self.config.address is not None and "RAY_AUTH_MODE" not in os.environ
            hint = ". If it asks for a token, set RAY_AUTH_MODE=token here, too: docs/security.md" if shows_none else ""
            raise UserError(f"backend.address: Ray did not start {where}: {_first_line(error)}{hint}") from error
        self.started = True
        if self.temporary is not None:
            self._watched = ray_watch.watch(say)
        self._wait_for_room(say)
        return self.num_actors[1]

    def _wait_for_room(self, say: Say) -> None:
        """Return once the actors fit on the cluster, after asking its autoscaler, if it has one, for what they need."""
        from ray.autoscaler.sdk import request_resources

        wait_s = self.config.wait_s if self.config.address is not None else 0.0  # this machine doesn't grow
        deadline = time.monotonic() + wait_s
        while True:
            try:
                self._fit_actors(_node_resources())
                break
            except UserError as error:
                if time.monotonic() >= deadline:
                    raise
                if not self.is_asking:
                    say(f"waiting up to {wait_s:g} s for more nodes: {error}")
                    self.is_asking = True
                    request_resources(bundles=self._least_bundles())  # heard by an autoscaler, if there is one
            time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
        self._ask_no_more()

    def _ask_no_more(self) -> None:
        """Take back what was asked of the autoscaler, which else keeps nodes for it."""
        if self.is_asking:
            from ray.autoscaler.sdk import request_resources

            self.is_asking = False
            request_resources(bundles=[])

    def _least_bundles(self) -> list[dict[str, float]]:
        """Return what the fewest actors reserve, and a loading task."""
        bundle = {"CPU": self.config.num_cpus, **({"GPU": self.config.num_gpus} if self.config.num_gpus else {})}
        return [*([bundle] * (self.config.num_actors or [1])[0]), {"CPU": 1.0}]

    def _fit_actors(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """Choose actors and GPUs an actor from what the nodes have; refuse what can't run beside picture loading."""
        cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
        self.num_gpus = self.config.num_gpus if self.config.num_gpus is not None else float(gpus > 0)
        if self.num_gpus > 0 and gpus < self.num_gpus:
            raise UserError(
                f"backend.num_gpus: an actor asks for {self.num_gpus:g} GPUs and Ray sees {gpus:g}; give 0 for the CPU"
            )
        place = Place(self.num_gpus, self.config.num_cpus)
        by_gpus = sum(place.by_gpus(node) for node in nodes)
        fits = max(1, by_gpus) if self.num_gpus else 1
        low, high = self.config.num_actors or (fits, fits)
        if self.num_gpus and low > by_gpus:
            kinds = " + ".join(f"{node['GPU']:g}" for node in nodes if node.get("GPU"))
            raise UserError(
                f"backend.num_actors: {low} actors of {self.num_gpus:g} GPUs are more than the {gpus:g} that Ray sees"
                f"{f' on its nodes ({kinds})' if '+' in kinds else ''}; give at most {by_gpus}"
            )
        if low * self.config.num_cpus + LOAD_CPUS > cpus:
            raise UserError(
                f"backend.num_actors: {low} actors of {self.config.num_cpus:g} CPUs leave none of {cpus:g} "
                "for loading pictures, and the run would stand still; give fewer actors or a smaller backend.num_cpus"
            )
        if low > (here := sum(place.actors(node) for node in nodes)):
            raise UserError(
                f"backend.num_cpus: {low} actors of {self.config.num_cpus:g} CPUs and {self.num_gpus:g} GPUs don't fit "
                f"on Ray's nodes one by one; {here} do. Give fewer actors or a smaller backend.num_cpus"
            )
        self.num_actors = (low, high)

    def run(
        self, units: Iterable[WorkUnit], load: LoadSettings, generate: GenerateSettings, say: Say = _ignore
    ) -> Iterator[Result]:
        """Yield results as they are committed, in no particular order."""
        import ray
        from ray.data import DataContext

        context = DataContext.get_current()
        context._max_num_blocks_in_streaming_gen_buffer = RESULTS_AHEAD
        context.target_max_block_size = 1  # else results are held back until 128 MiB have come together
        context.enable_progress_bars = self.verbose
        context.execution_no_progress_timeout_s = -1  # one video may take longer than Ray's half an hour on a CPU
        context.raise_original_map_exception = True
        context.max_errored_blocks = 0  # it would drop whole blocks; items that fail are rows
        place = Place(self.num_gpus, self.config.num_cpus, self.num_actors[1])
        generate = replace(generate, torch_threads=self.config.torch_threads, place=place)
        self._prepare_nodes(generate)
        plan_file, counted = Store(location(generate.output)).plan_dir / "units", _Counted(units)
        try:
            dataset = self._dataset(write_units(counted, plan_file), plan_file, load, generate)
            metrics, arrived = self._metrics(counted, generate), _Arrived()
            for table in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                for row in table.to_pylist():
                    results, notes = _unpacked(row["packed"])
                    _say_all(say, notes)
                    results = arrived.new(row, results)
                    for i, result in enumerate(results, 1):
                        if metrics is not None:
                            metrics.add(result, ends_unit=row["ends_unit"] and i == len(results))
                        yield result
        except ray.exceptions.RayError as error:
            raise _plain_error(error) from error
        finally:
            plan_file.unlink(missing_ok=True)

    def _dataset(
        self, places: Sequence[tuple[int, int]], plan_file: Path, load: LoadSettings, generate: GenerateSettings
    ) -> Any:
        """Return the stages over the plan's chunks, which lie at these places of the file."""
        import pyarrow as pa
        import ray
        from ray.data import ActorPoolStrategy

        low, high = self.num_actors
        load_cpus = LOAD_CPUS / 2 if self.config.num_cpus == LOAD_CPUS else LOAD_CPUS
        return (
            ray.data.from_arrow([pa.table({"start": [start], "length": [length]}) for start, length in places])
            .map_batches(
                _load_chunk,
                batch_size=1,
                batch_format="pyarrow",
                fn_kwargs={"plan_file": plan_file, "load": load},
                num_cpus=load_cpus,
            )
            .map_batches(
                RayGenerate,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_kwargs={"settings": generate, "hide_gpus": self.num_gpus == 0},
                compute=ActorPoolStrategy(**_pool(low, high), **TWO_UNITS),
                num_cpus=self.config.num_cpus,
                num_gpus=self.num_gpus or None,
            )
        )

    def _metrics(self, units: _Counted, generate: GenerateSettings) -> RunMetrics | None:
        """Return what Prometheus is told; None on a Ray of our own, which nobody scrapes."""
        if self.config.address is None:
            return None
        name = location(generate.output).name
        return RunMetrics(name, generate.model.name, num_videos=units.num_videos, num_units=units.num_units)

    def _prepare_nodes(self, generate: GenerateSettings) -> None:
        """Fetch the checkpoint once on every node of a joined cluster, before its actors start."""
        model = generate.model
        if self.config.address is None:
            return
        if not checkpoint.is_address(model.id) and checkpoint.local_folder(model) is not None:
            return
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        fetch = ray.remote(num_cpus=0)(_fetch_checkpoint)
        nodes = [n for n in ray.nodes() if n["Alive"] and (n["Resources"].get("GPU") or not self.num_gpus)]
        here = [NodeAffinitySchedulingStrategy(n["NodeID"], soft=False) for n in nodes]
        try:
            ray.get([fetch.options(scheduling_strategy=node).remote(generate.model) for node in here])
        except ray.exceptions.RayError as error:
            raise _plain_error(error) from error

    def stop(self, logs: Path) -> None:
        """Leave the cluster; end a Ray of our own, keep its logs and remove its temporary folder."""
        self._watched.set()
        if self.started:
            import ray

            self._ask_no_more()
            ray.shutdown()
            take_again()
            self.started = False
        if self.temporary is not None:
            with suppress(OSError):  # a full disk, which whoever writes videos there tells of
                _keep_logs(self.temporary / "session_latest" / "logs", logs / "ray")
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary = None

    def drop(self) -> None:
        """Remove the temporary folder; Ray's processes die with the one that started them."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


class _Counted:
    """Units with a count of those that were taken."""

    def __init__(self, units: Iterable[WorkUnit]) -> None:
        self._units = units
        self.num_units = self.num_videos = 0

    def __iter__(self) -> Iterator[WorkUnit]:
        for unit in self._units:
            self.num_units += 1
            self.num_videos += len(unit.videos)
            yield unit


def _pool(low: int, high: int) -> dict[str, int]:
    return {"size": low} if low == high else {"min_size": low, "max_size": high}


def _keep_logs(session: Path, kept: Path) -> None:
    """Copy what a Ray of our own has logged, through no symlink.

    Raises: OSError, after copying what can be copied.
    """
    if session.is_dir():
        for path in (kept, *kept.rglob("*")):
            if path.is_symlink():
                path.unlink()
        shutil.copytree(session, kept, dirs_exist_ok=True, ignore_dangling_symlinks=True)


def make_backend(config: BackendConfig, *, verbose: bool = False) -> Backend:
    """Return the backend that the config names."""
    return SerialBackend(config) if config.kind.value == "serial" else RayBackend(config, verbose=verbose)


# --- what runs in Ray's processes; rows are flat so that they travel as Arrow ---------------------------------


def write_units(units: Iterable[WorkUnit], path: Path) -> list[tuple[int, int]]:
    """Write a plan's units into one file, in compressed chunks; return where each begins and how long it is.

    Few units are a chunk each, so that several tasks load pictures at once; of millions, a chunk has UNITS_A_CHUNK.
    """
    chunks: list[tuple[int, int]] = []
    remaining = iter(units)
    with path.open("wb") as file:
        while some := list(islice(remaining, min(UNITS_A_CHUNK, 1 + len(chunks) // 16))):
            data = zlib.compress("\n".join(map(unit_to_json, some)).encode(), 1)
            chunks.append((file.tell(), len(data)))
            file.write(data)
    return chunks


def read_units(path: Path, start: int, length: int) -> Iterator[str]:
    """Yield the units of one chunk, as JSON."""
    yield from zlib.decompress(read_range(path, start, length)).decode().split("\n")


def _load_chunk(batch: Any, *, plan_file: Path, load: LoadSettings) -> Iterator[Any]:
    """Yield a table a unit of one chunk, with its picture."""
    import pyarrow as pa

    for row in batch.to_pylist():
        for unit in read_units(plan_file, row["start"], row["length"]):
            yield pa.Table.from_pylist([_load_row(unit, load)])


def _load_row(unit: str, load: LoadSettings) -> dict[str, Any]:
    loaded = load_image(unit_from_json(unit), load.height, load.width, load.fit, load.access)
    return {
        "unit": unit,
        "pixels": b"" if loaded.picture is None else loaded.picture.tobytes(),
        "height": load.height,
        "width": load.width,
        "sha256": loaded.sha256,
        "load_s": loaded.load_s,
        "error": "" if loaded.error is None else to_json(loaded.error),
    }


def _loaded_from_row(row: dict[str, Any]) -> LoadedUnit:
    shape = (row["height"], row["width"], 3)
    return LoadedUnit(
        unit=unit_from_json(row["unit"]),
        picture=np.frombuffer(row["pixels"], np.uint8).reshape(shape) if row["pixels"] else None,
        sha256=row["sha256"],
        load_s=row["load_s"],
        error=from_dict(FailureRecord, json.loads(row["error"])) if row["error"] else None,
    )


class RayGenerate:
    """The Generate stage as Ray Data calls it: Arrow tables of one unit in, the results of a moment out."""

    def __init__(self, settings: GenerateSettings, *, hide_gpus: bool = False) -> None:
        if hide_gpus:  # Ray leaves the variable alone for actors without GPUs, and torch would take the first
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides what ends
        with loading(Store(location(settings.output))):
            self.stage = Generate(_settled(settings))
        gc.collect()
        gc.freeze()  # modules and model stay as long as this process: the collector needn't go through them again

    def __call__(self, batch: Any) -> Iterator[Any]:
        """Yield a table of one row each time: Ray Data would give each of several rows a block of its own."""
        import pyarrow as pa

        for row in batch.to_pylist():
            loaded = _loaded_from_row(row)
            begun = 0
            try:
                for results in self.stage.begin(loaded, HOLD_S):
                    where = {"unit": [loaded.unit.videos[0].video_id], "first": [begun]}
                    begun += len(results)
                    ends_unit = [begun == len(loaded.unit.videos)]
                    packed = [_packed(results, self.stage.take_notes())]
                    yield pa.table({**where, "ends_unit": ends_unit, "packed": packed})
            except ProcessError as error:  # Ray replaces a process that dies, and gives its unit to the next
                print(error, file=sys.stderr, flush=True)
                os._exit(1)


def _node_resources() -> list[dict[str, float]]:
    """Return what each living node has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _settled(settings: GenerateSettings) -> GenerateSettings:
    """Return the settings with what this actor's node decides: kinds of nodes may differ."""
    if settings.place is None:
        return settings
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    mine = ray.get_runtime_context().get_node_id()
    here: dict[str, float] = next((node["Resources"] for node in alive if node["NodeID"] == mine), {})
    threads, share = settings.place.share(here, max(1, len(alive)), num_cores())
    return replace(settings, torch_threads=settings.torch_threads or threads, memory_share=share)


class _Arrived:
    """How far the results of each unit have come.

    A retried unit yields one by one what its first try may have yielded together, and Ray leaves out as many yields
    as there were: some results may come twice, none is left out. That goes for a unit whose last result is there,
    too: its actor may die before Ray has heard that it is over.
    """

    def __init__(self, num_kept: int = UNITS_KEPT) -> None:
        self._num_kept = num_kept
        self._next: dict[str, int] = {}
        self._over: dict[str, None] = {}

    def new(self, row: Mapping[str, Any], results: list[Result]) -> list[Result]:
        """Return those of a row's results that haven't come before."""
        unit, first = row["unit"], row["first"]
        if unit in self._over:
            return []
        expected = self._next.pop(unit, 0)
        if row["ends_unit"]:
            self._over[unit] = None
            if len(self._over) > self._num_kept:
                del self._over[next(iter(self._over))]
        else:
            self._next[unit] = max(expected, first + len(results))
        return results[max(0, expected - first) :]


def _packed(results: Sequence[Result], notes: list[str]) -> bytes:
    """Return results and notes compressed, a line of JSON each: one value costs Ray less than lists of several."""
    head = json.dumps({"are_videos": [isinstance(result, VideoRecord) for result in results], "notes": notes})
    return zlib.compress("\n".join([head, *map(to_json, results)]).encode(), 1)


def _unpacked(packed: bytes) -> tuple[list[Result], list[str]]:
    """Return what `_packed` was given."""
    head, *lines = map(json.loads, zlib.decompress(packed).decode().split("\n"))
    kinds = (VideoRecord if is_video else FailureRecord for is_video in head["are_videos"])
    return [from_dict(kind, line) for kind, line in zip(kinds, lines, strict=True)], head["notes"]  # type: ignore[misc]


def _fetch_checkpoint(model: Any) -> None:
    checkpoint.fetch(model)


# --- Ray's surroundings -----------------------------------------------------------------------------------------


def _without_advice(error: Exception) -> Exception:
    """Return an error without what Ray Data appends to its message: how often it tried, and its own settings."""
    if error.args and isinstance(error.args[0], str):
        error.args = (_ADVICE.sub("", error.args[0]), *error.args[1:])
    return error


def _plain_error(error: BaseException) -> Exception:
    """Return our own error where one is at the bottom of Ray's, else Ray's with its first line.

    Where a process, a node or Ray itself has gone, and Ray has no other for it, a new run can go on: ProcessError.
    """
    import ray.exceptions as of_ray

    for cause in causes(error):
        original = getattr(cause, "cause", None)
        for candidate in (original, cause):
            if isinstance(candidate, SvdBatchError):
                return _without_advice(candidate)
            if isinstance(candidate, Exception) and is_storage(candidate):
                return store_error(_without_advice(candidate)) or candidate
    text = str(error)
    for line in reversed(text.splitlines()):
        if "UserError: " in line:
            return UserError(line.split("UserError: ", 1)[1])
    gone = (
        of_ray.RayActorError,
        of_ray.WorkerCrashedError,
        of_ray.RaySystemError,
        of_ray.ObjectLostError,
        of_ray.LocalRayletDiedError,
    )
    if any(isinstance(cause, gone) for cause in causes(error)):
        return ProcessError(
            f"backend: Ray: {_first_line(error)} What is finished is kept, and the same command goes on"
        )
    return SvdBatchError(_first_line(error))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _quiet_environment() -> None:
    """Turn off what Ray sends home and what it prints about itself, unless the user has set it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")


def _short_temp_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= MAX_TEMP_PATH else "/tmp"


def _make_temporary() -> Path:
    folder = _short_temp_folder()
    try:
        return Path(tempfile.mkdtemp(prefix=temporary_prefix(), dir=folder))
    except OSError as error:
        raise UserError(
            f"Ray needs a temporary folder and {folder} can't be written: {error.strerror}; set TMPDIR"
        ) from None


def remove_leftovers() -> None:
    """Remove the temporary folders of our runs whose process is gone."""
    for place in {_short_temp_folder(), tempfile.gettempdir()}:
        for folder in Path(place).glob("svdb-*"):
            if is_left_behind(folder.name):
                shutil.rmtree(folder, ignore_errors=True)


def num_cores() -> int:
    """Return the cores that this process may use; macOS knows no affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_token_folder() -> None:
    """Raise UserError where Ray could not write its authentication token."""
    folder = Path.home() / ".ray"
    existing = folder if folder.exists() else folder.parent
    has_token = "RAY_AUTH_TOKEN" in os.environ or os.access(folder / "auth_token", os.R_OK)
    if not has_token and not os.access(existing, os.W_OK):
        raise UserError(
            f"Ray keeps an authentication token in {folder}, which can't be written; set HOME to a folder that can"
        )
