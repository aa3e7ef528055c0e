"""What `plan` says of computing: FLOPs a video, memory by profile, hours and money on named GPUs. No GPU is touched."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from svd_batch import checkpoint
from svd_batch.config import Dtype
from svd_batch.gpus import CONTEXT_BYTES, EFFICIENCY, GPUS, Gpu, video_seconds
from svd_batch.job import UNRESOLVED, Job
from svd_batch.plan import heaviest_cell
from svd_batch.profiles import PROFILES, candidates, with_margin
from svd_batch.quality import approximations

if TYPE_CHECKING:
    from svd_batch.engine.fit import Demand


def outlook(job: Job) -> Iterator[str]:
    """Yield the lines; none where the checkpoint's configs can't be had."""
    configs = checkpoint.known_configs(job.config.model, None if job.revision == UNRESOLVED else job.revision)
    if configs is None:
        yield "compute:      not known: the checkpoint's configs are not on this machine"
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it tells of image processors that nobody uses here
    from svd_batch.engine.fit import Demand
    from svd_batch.engine.machine import device_type

    model = job.config.model
    kind = "cuda" if model.dtype is Dtype.float16 else device_type()
    demand = Demand(configs, model, job.config.speed, heaviest_cell(job.plan), kind)
    each = _flops(job, demand)
    yield f"compute:      {flops(each)} a video, {flops(each * job.plan.num_todo)} in all{_without_approximations(job)}"
    yield from _memory(demand)
    yield from _gpus(job, demand, each)


def flops(number: float) -> str:
    """Return FLOPs as a person reads them: 812 GFLOP, 4.2 PFLOP."""
    number /= 1e9
    for unit in ("GFLOP", "TFLOP", "PFLOP"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} EFLOP"


def _flops(job: Job, demand: Demand) -> float:
    """Return the mean FLOPs of a video over the cells of the sweep."""
    from svd_batch.engine.estimate import estimate
    from svd_batch.engine.fit import work_of

    cells = Counter((c.max_guidance_scale > 1, c.num_inference_steps) for c in job.plan.request.cells)
    total = 0.0
    for (guided, num_steps), count in cells.items():
        work = replace(work_of(demand.model, demand.cell), guided=guided)
        taken = estimate(demand.configs, work, PROFILES["fast"], demand.speed, demand.device_type)
        total += count * taken.flops(num_steps)
    return total / cells.total()


def _without_approximations(job: Job) -> str:
    approximate = any(approximations(cell) for cell in job.plan.request.cells)
    return "; approximations other than the number of steps take less" if approximate else ""


def _memory(demand: Demand) -> Iterator[str]:
    from svd_batch.engine.fit import gib

    names = candidates(demand.device_type)
    peaks = ", ".join(f"{name} {gib(demand.peak_bytes(PROFILES[name]))}" for name in names)
    where = "a GPU" if demand.device_type == "cuda" else "this CPU"
    yield f"memory:       {peaks} on {where} at decode_chunk_size={demand.cell.decode_chunk_size} (estimated peaks)"


def _gpus(job: Job, demand: Demand, each: float) -> Iterator[str]:
    if demand.model.dtype is Dtype.float32:
        yield "GPU hours:    not estimated for float32; give model.dtype=float16 or bfloat16"
        return
    yield f"GPU hours:    estimates, at an assumed {EFFICIENCY:.0%} of the makers' peak (why: svd_batch/gpus.py)"
    on_gpu = replace(demand, device_type="cuda")
    prices = job.config.price_per_gpu_hour or {}
    for gpu in GPUS:
        seconds = video_seconds(each, gpu)
        hours = seconds * job.plan.num_todo / 3600
        money = f", {hours * prices[gpu.name]:,.2f} at {prices[gpu.name]:g} an hour" if gpu.name in prices else ""
        yield f"  {gpu.name:8} {hours:,.1f} h ({seconds:.0f} s a video){money}; {_profile_on(gpu, on_gpu)}"


def _profile_on(gpu: Gpu, demand: Demand) -> str:
    free = gpu.memory_gib * 2**30 - CONTEXT_BYTES
    for name in candidates("cuda"):
        if with_margin(demand.peak_bytes(PROFILES[name])) <= free:
            return f"memory={name} fits its {gpu.memory_gib} GiB"
    chunk = demand.largest_chunk(PROFILES["minimal"], with_margin, free)
    return f"no profile fits its {gpu.memory_gib} GiB" + (f"; decode_chunk_size={chunk} would" if chunk else "")
