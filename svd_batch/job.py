"""A job before its start: what to make, where, and what is there already. Opens pictures only to check them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from svd_batch import checkpoint, ids
from svd_batch.config import CheckImages, Config, ModelConfig, folder_settings, pixel_settings
from svd_batch.errors import UserError
from svd_batch.images import check_readable
from svd_batch.locations import location
from svd_batch.manifest import Manifest, bundled_manifest, read_manifest, shard_of
from svd_batch.plan import Plan, Request, Seeds, make_plan
from svd_batch.profiles import check_compile
from svd_batch.records import ImageRecord
from svd_batch.store import Store
from svd_batch.sweep import TRAINED_MOTION_BUCKETS

SAMPLE_IMAGES = 64
UNRESOLVED = "unresolved"


@dataclass(frozen=True)
class Job:
    """Everything known before the start: what to make, where, and what is there already."""

    config: Config
    store: Store
    manifest: Manifest
    revision: str
    plan: Plan
    fingerprint: str


def prepare(config: Config, *, need_weights: bool = True) -> Job:
    """Return the job that the configuration describes, subtracting what its output folder holds. Writes nothing.

    Without `need_weights` a hub that can't be reached is no error: the revision is then taken from the output
    folder, else left unresolved, and nothing counts as done.

    Raises: UserError for anything that would stop the run: a bad manifest or checkpoint, an output folder that was made
    with other settings.
    """
    if config.output is None:
        raise UserError("output: none given")
    check_compile(config.memory, config.speed)
    store = Store(location(config.output))
    store.check_ours()
    folder = checkpoint.local_folder(config.model)
    is_elsewhere = config.model.id == "pocket" or checkpoint.is_address(config.model.id)
    if folder is not None and not is_elsewhere:  # the same wherever the command and the actors run
        config = replace(config, model=replace(config.model, id=str(folder)))
    revision = _revision(config, store, need_weights=need_weights)
    manifest = _shard(config, read_manifest(manifest_specs(config), config.access()))
    settings = folder_settings(config, revision)
    if store.done_ids():  # a first try that made nothing binds nobody
        check_same_settings(store, settings)
    listed = tuple(config.seeds) if config.seeds is not None else None
    request = Request(config.cells(), Seeds(config.seed, config.num_seeds, listed), pixel_settings(config, revision))
    plan = _plan(config, store, manifest, request)
    return Job(config, store, manifest, revision, plan, ids.fingerprint(settings))


def _shard(config: Config, manifest: Manifest) -> Manifest:
    if config.shard is None:
        return manifest
    number, count = map(int, config.shard.split("/"))
    shard = shard_of(manifest, number, count)
    if not shard.images:
        raise UserError(f"shard: {config.shard} has none of the manifest's {len(manifest.images)} pictures; give fewer")
    return shard


def _plan(config: Config, store: Store, manifest: Manifest, request: Request) -> Plan:
    failed = set() if config.retry_failed else {f.item_id for f in store.each_failure()}
    plan = make_plan(manifest.images, request, done=store.done_ids(), failed=failed)
    return replace(plan, recorded_sha256=_recorded_sha256(store, plan)) if plan.done and plan.num_todo else plan


def up_to_date(job: Job) -> Job:
    """Return the job as it is now, where its output folder has got other videos since it was prepared."""
    return job if job.store.done_ids() == job.plan.done else prepare(job.config)


def asked_for(job: Job, request: Request) -> Job:
    """Return the job with other videos asked for, less what its output folder holds by now."""
    return replace(job, plan=_plan(job.config, job.store, job.manifest, request))


def _revision(config: Config, store: Store, *, need_weights: bool) -> str:
    hub = checkpoint.local_folder(config.model) is None
    try:
        return checkpoint.resolve_revision(config.model)
    except UserError:
        if need_weights or not hub:
            raise
    settings = store.read_run().get("settings", {})
    return str(settings["model.revision"]) if settings.get("model.id") == config.model.id else UNRESOLVED


def manifest_specs(config: Config) -> list[str]:
    """Return the manifests to read; the bundled one where none is given."""
    return config.manifest or [str(bundled_manifest())]


def _recorded_sha256(store: Store, plan: Plan) -> dict[str, str]:
    """Return what the pictures with a video to make were when their first video was made."""
    wanted = {image.image_id for image in plan.images_todo}
    found: dict[str, str] = {}
    for read in store.record_sources():
        columns = ["image_id", "image_sha256"]
        pairs = read(columns).group_by(columns, use_threads=False).aggregate([])
        ids_and_sha256 = zip(*(pairs[name].to_pylist() for name in ("image_id", "image_sha256")), strict=True)
        found |= {image_id: sha256 for image_id, sha256 in ids_and_sha256 if image_id in wanted}
    return found


def pinned_model(job: Job) -> ModelConfig:
    """Return the job's model with the hub's commit as its revision: a branch may move while the job runs."""
    model = job.config.model
    return model if checkpoint.local_folder(model) is not None else replace(model, revision=job.revision)


def check_same_settings(store: Store, settings: dict[str, Any]) -> None:
    """Raise UserError when the folder was made with other settings, naming each with both values."""
    asked = {"reproducible": False, **settings}
    made_with = {"reproducible": False, **store.read_run().get("settings", settings)}
    differing = [key for key in {**asked, **made_with} if asked.get(key) != made_with.get(key)]
    if not differing:
        return
    if "model.id" in differing and "model.revision" in differing:
        differing.remove("model.revision")  # it follows from the other
    if "reproducible" in differing:
        differing = ["reproducible"]  # it brings others along
    was = ", ".join(f"{k}={_short(made_with.get(k))}" for k in differing)
    now = ", ".join(f"{k}={_short(asked.get(k))}" for k in differing)
    raise UserError(f"output: {store.root} was made with {was}; you asked for {now}. Use output=… for a new folder")


def _short(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text[:12] + "…" if len(text) == 40 and text.isalnum() else text


def describe(job: Job) -> str:
    """Return one line that says what will happen."""
    plan, config = job.plan, job.config
    asked = f"{_counted(plan.num_images, 'picture')} × {_counted(plan.num_cells, 'cell')}"
    if (config.num_seeds, config.seeds) != (1, None):
        asked += f" × {_counted(len(config.seeds or range(config.num_seeds)), 'seed')}"
    if config.shard is not None:
        asked = f"shard {config.shard} of the manifest, {asked}"
    head = f"{asked} = {_counted(plan.num_videos, 'video')} with {config.model.name} into {config.output}"
    if plan.num_done == plan.num_videos:
        return f"{head}: {plan.num_done} of {plan.num_videos} done, nothing to do"
    parts = [f"{plan.num_done} done"] if plan.num_done else []
    if plan.num_left_failed:
        parts.append(f"{plan.num_left_failed} failed earlier and are left (retry_failed=true tries them again)")
    parts.append(f"{plan.num_todo} new" if plan.num_todo else "nothing to do")
    return f"{head}: {', '.join(parts)}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def cautions(job: Job) -> Iterator[str]:
    """Yield what the person should know before the start: settings that run but mean nothing that was learned."""
    for old, new in job.manifest.renamed:
        yield f"manifest column {old} is carried as {new}, since {old} has a meaning of its own in the table"
    if not job.plan.num_todo:
        return
    model = job.config.model
    trained = checkpoint.trained_num_frames(model, job.revision)
    if trained is not None and model.num_frames != trained:
        yield (
            f"model.num_frames: {model.num_frames} frames, and {model.name} was trained on videos of {trained}; "
            "expect worse ones"
        )
    yield from _large_buckets(job)


def _large_buckets(job: Job) -> Iterator[str]:
    """Yield a sentence where the sweep, or a column of the manifest, asks for more motion than was ever shown."""
    combinations = {image.fixed for image in job.plan.images_todo}
    fixed = [dict(one).get("motion_bucket_id") for one in combinations]
    swept = [cell.motion_bucket_id for cell in job.plan.request.cells if None in fixed]
    for where, buckets in (("motion_bucket_id", swept), ("manifest column motion_bucket_id", fixed)):
        largest = max((float(bucket) for bucket in buckets if bucket is not None), default=0.0)
        if largest > TRAINED_MOTION_BUCKETS:
            yield (
                f"{where}: {largest:g} is above {TRAINED_MOTION_BUCKETS}, the largest that Stable Video Diffusion "
                "was trained on; more need not mean more motion"
            )


def unreadable(job: Job, check: CheckImages) -> list[tuple[ImageRecord, str]]:
    """Return the pictures that will fail, with reasons, among as many as `check` says to open."""
    images = job.plan.images_todo
    if check is CheckImages.none:
        return []
    if check is CheckImages.sample and len(images) > SAMPLE_IMAGES:
        images = random.Random(0).sample(images, SAMPLE_IMAGES)
    return check_readable(images, job.config.access())
