"""The verb `bench`: the sweep engine against a plain loop over stock diffusers, the same grid in turn.

Knows the job and its configuration; `measure` runs both sides, each in a process of its own (`sides`, `stock`), and
`summary` does the sums. No torch is loaded here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import tempfile
from datetime import UTC, datetime
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

import svd_batch
from svd_batch.backends import LoadSettings, num_cores
from svd_batch.bench.measure import compare
from svd_batch.bench.summary import JOB_VIDEOS, lines, summary
from svd_batch.config import BackendConfig, Compile, Config, MetricsConfig, SpeedConfig
from svd_batch.console import Console, Progress
from svd_batch.errors import UserError
from svd_batch.job import Job, prepare
from svd_batch.load import load_image
from svd_batch.quality import approximations
from svd_batch.records import WorkUnit
from svd_batch.run import generate_settings, lines_only
from svd_batch.settings import GenerateSettings

_SWITCHES = [f.name for f in dataclasses.fields(SpeedConfig) if f.name not in ("batch_size", "compile")]
OFF = SpeedConfig(**dict.fromkeys(_SWITCHES, False), batch_size=1, compile=Compile.off)
"""No shortcut, as conf/speed/off.yaml has it."""


def bench(config: Config, console: Console, *, command: str = "") -> int:
    """Measure, print, write the JSON file, and return the exit code 0.

    Raises: UserError for what can't be measured, before anything loads where that can be known.
    """
    _check(config)
    with tempfile.TemporaryDirectory(prefix="svdb-bench-") as folder:
        job = prepare(dataclasses.replace(config, output=str(Path(folder) / "videos")))
        load = LoadSettings(config.model.height, config.model.width, config.fit, config.access())
        units = _units(job, load)
        out = _result_file(config)
        threads = config.backend.torch_threads or num_cores()
        settings = dataclasses.replace(
            generate_settings(job),
            torch_threads=threads,
            num_videos=JOB_VIDEOS,
            metrics=(),  # a plain loop has none
        )
        console.say(_headline(config, units, threads))
        document = _document(job, threads, command)
        with lines_only(console, Path(folder) / "log", verbose=config.verbose) as ours:
            for speed in _speeds(config):
                _measure(dataclasses.replace(settings, speed=speed), load, units, document, ours)
                out.write_text(json.dumps(document, indent=1, default=_plain) + "\n", encoding="utf-8")
    console.say(f"\nall times: {out}")
    return 0


def _measure(
    settings: GenerateSettings, load: LoadSettings, units: list[WorkUnit], document: dict[str, Any], console: Console
) -> None:
    """Compare both sides once, add what was measured to the document, and print it."""
    names, rounds = switched_on(settings.speed), document["settings"]["bench"]["rounds"]
    console.say(f"\nshortcuts: {', '.join(names) or 'none'}; both load and make a first grid")
    num_videos = len(units[0].videos) + rounds * sum(len(unit.videos) for unit in units)
    with Progress(2 * num_videos, console) as progress:
        measured = compare(settings, load, units, rounds, progress.update)
    for note in measured.ours.start.notes:
        console.say(note)
    record = measured.pairs[0].ours.records[0]
    document["machine"]["device_name"] = record.device_name
    document["versions"] |= {"torch": record.torch_version, "diffusers": record.diffusers_version}
    document["comparisons"].append({"shortcuts": names, **summary(measured)})
    for line in lines(document["comparisons"][-1]):
        console.say(line)


def _check(config: Config) -> None:
    """Raise UserError for settings of a job that a benchmark in this process has no use for."""
    if config.output is not None:
        raise UserError("output: bench keeps no videos; leave it out (bench.json=FILE says where the measurements go)")
    if config.refine.best is not None:
        raise UserError("refine.best: bench makes the whole grid on both sides; leave it out")
    if config.metrics != MetricsConfig():
        raise UserError("metrics.names: bench measures no video on either side; leave it out")
    for key in ("address", "num_actors", "num_gpus", "num_cpus"):
        if getattr(config.backend, key) != getattr(BackendConfig(), key):
            raise UserError(
                f"backend.{key}: bench runs on this machine without Ray and has no use for it; leave it out"
            )


def _result_file(config: Config) -> Path:
    """Return the JSON file to write, its folder made.

    Raises: UserError when it is there already, since a measurement can't be had again, or can't be written.
    """
    if config.bench.json is not None:
        path = Path(config.bench.json).expanduser()
    else:
        name = re.sub(r"[^\w.-]+", "_", config.model.name)
        path = Path("outputs/bench") / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    if path.exists():
        raise UserError(f"bench.json: {path} is there already; give a new file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"bench.json: {path.parent} can't be made: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"bench.json: {path.parent} can't be written; give another folder")
    return path


def _units(job: Job, load: LoadSettings) -> list[WorkUnit]:
    """Return the first pictures, each with its whole grid.

    Raises: UserError for a picture that doesn't load, or an approximation that stock can't do.
    """
    work = islice(job.plan.work(), job.config.bench.pictures)
    units = [WorkUnit(image, videos) for image, videos in work]
    for unit in units:
        error = load_image(unit, load.height, load.width, load.fit, load.access).error
        if error is not None:
            raise UserError(f"manifest: {error.image_path or error.image_id} does not load: {error.error_message}")
        for cell in (video.cell for video in unit.videos):
            named = approximations(cell)
            if named not in (None, cell.sampler):
                raise UserError(f"bench: stock diffusers has no {named}; leave it out, as quality=final does")
    return units


def switched_on(speed: SpeedConfig) -> list[str]:
    """Return the names of the shortcuts that are on."""
    return [f.name for f in dataclasses.fields(SpeedConfig) if getattr(speed, f.name) != getattr(OFF, f.name)]


def _speeds(config: Config) -> list[SpeedConfig]:
    """Return the settings to measure: as configured, then each shortcut by itself where asked for."""
    alone = [dataclasses.replace(OFF, **{name: getattr(config.speed, name)}) for name in switched_on(config.speed)]
    return [config.speed, *(alone if config.bench.each else [])]


def _headline(config: Config, units: list[WorkUnit], threads: int) -> str:
    model, num_videos = config.model, sum(len(unit.videos) for unit in units)
    steps = "/".join(str(n) for n in sorted({v.cell.num_inference_steps for u in units for v in u.videos}))
    return (
        f"stock diffusers and the sweep engine in turn, rounds: {config.bench.rounds}; {num_videos} videos of "
        f"{len(units)} pictures with {model.name}; {model.num_frames} frames of {model.height}×{model.width} px, "
        f"{steps} steps, {model.dtype.value}, {threads} threads"
    )


def _document(job: Job, threads: int, command: str) -> dict[str, Any]:
    """Return the head of the JSON file: machine, versions and settings."""
    config = job.config
    sections = ("model", "generation", "sweep", "memory", "speed", "video", "bench")
    others = ("manifest", "seed", "num_seeds", "seeds", "fit", "reproducible")
    return {
        "format": 1,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": {"host": platform.node(), "platform": platform.platform(), "num_cores": num_cores()},
        "versions": {"svd_batch": svd_batch.__version__, "python": platform.python_version()},
        "torch_threads": threads,
        "settings": {
            **{name: getattr(config, name) for name in others},
            **{name: dataclasses.asdict(getattr(config, name)) for name in sections},
            "model_revision": job.revision,
        },
        "comparisons": [],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} is no JSON")
