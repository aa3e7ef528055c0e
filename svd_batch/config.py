"""Typed configuration: what each key means and which values it takes.

Dataclasses only; Hydra fills them from conf/ (see cli.py) and nothing here imports it. Range checks run in
`__post_init__`, so a wrong value fails before anything loads. Below `run.py` nobody receives the whole
Config, only its own section.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from svd_batch.access import Access, own_stores
from svd_batch.checks import check_float as _check_float
from svd_batch.checks import check_int as _check_int
from svd_batch.errors import UserError
from svd_batch.gpus import GPUS
from svd_batch.metrics import METRICS, check_names
from svd_batch.records import CELL_FIELDS, SweepCell
from svd_batch.submit.settings import ClusterConfig
from svd_batch.sweep import cell_value, expand


class Dtype(Enum):
    """Number format of the weights and of the computation."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Fit(Enum):
    """How a picture is brought to the model's size."""

    crop = "crop"
    pad = "pad"
    stretch = "stretch"


class Codec(Enum):
    """What the video files are."""

    h264 = "h264"
    gif = "gif"
    webp = "webp"
    ffv1 = "ffv1"


class Offload(Enum):
    """What waits in host memory until it is needed."""

    none = "none"
    model = "model"
    sequential = "sequential"


class Compile(Enum):
    """What of the UNet goes through torch.compile."""

    off = "off"
    auto = "auto"
    regional = "regional"
    whole = "whole"


class BackendKind(Enum):
    """What runs the stages."""

    ray = "ray"
    serial = "serial"


class CheckImages(Enum):
    """How many pictures `plan` and `run` open before the start."""

    none = "none"
    sample = "sample"
    all = "all"


class DraftQuality(Enum):
    """The presets that `refine` may draft in."""

    draft = "draft"
    preview = "preview"


class LoggerKind(Enum):
    """What shows a run while it goes on."""

    wandb = "wandb"
    tensorboard = "tensorboard"


@dataclass
class ModelConfig:
    """Which checkpoint, and the shape of its videos."""

    name: str = "pocket"
    """Short name, for messages and the dataset card."""
    id: str = "pocket"
    """Hub repository id, folder in diffusers' format, here or in a store, or `pocket` for the bundled checkpoint."""
    revision: str | None = None
    """Branch, tag or commit on the hub; none is `main`."""
    variant: str | None = "fp16"
    """Weight file variant, as in `diffusion_pytorch_model.fp16.safetensors`."""
    dtype: Dtype = Dtype.float32
    """float32, float16 or bfloat16; float16 needs a GPU."""
    num_frames: int = 8
    """Frames a video: 14 for SVD, 25 for SVD-XT."""
    height: int = 64
    """Pixels, a multiple of 8."""
    width: int = 96
    """Pixels, a multiple of 8."""
    license: str = "apache-2.0"
    """Licence of the weights, written to the dataset card."""

    def __post_init__(self) -> None:
        if not self.id.strip():
            raise UserError("model.id: the empty string is not accepted; give a hub repository id or a folder")
        if self.id != "pocket" and self.name == "pocket":  # only `id` was given: neither name nor licence are pocket's
            self.name = self.id.rstrip("/").rpartition("/")[2] or self.id
            self.license = "unknown" if self.license == "apache-2.0" else self.license
        _check_int("model.num_frames", self.num_frames, 2, 1024)  # stock fails on 1: its guidance ramp has two ends
        for key in ("height", "width"):
            value = getattr(self, key)
            _check_int(f"model.{key}", value, 8, 8192)
            if value % 8:
                raise UserError(f"model.{key}: {value} is not accepted; give a multiple of 8")


@dataclass
class GenerationConfig:
    """The default value of every field of a cell; sweep axes and manifest columns replace them."""

    motion_bucket_id: int = 127
    """How much motion to ask for; SVD was trained on 0 to 255."""
    noise_aug_strength: float = 0.02
    """Noise added to the picture before encoding; more frees the video from the picture."""
    fps: int = 7
    """Frames per second that the model is conditioned on (it sees fps - 1)."""
    num_inference_steps: int = 25
    """Denoising steps."""
    min_guidance_scale: float = 1.0
    """Classifier-free guidance at the first frame."""
    max_guidance_scale: float = 3.0
    """Guidance at the last frame; 1 or less turns guidance off."""
    decode_chunk_size: int = 8
    """Frames that the VAE decodes at a time; changes pixels and memory."""
    sampler: str = "euler"
    """euler, or ays10: ten steps at Align Your Steps' noise levels, with num_inference_steps=10. Approximates."""
    guidance_sigma_min: float = 0.0
    """Guidance applies at steps whose noise level sigma is at least this; above 0 approximates."""
    guidance_sigma_max: float = 1000.0
    """Guidance applies at steps whose noise level sigma is at most this; SVD starts at 700, so less approximates."""
    deep_cache_interval: int = 1
    """Compute the UNet's deep features at every so many steps and use them again in between; above 1 approximates."""

    def __post_init__(self) -> None:
        for name in CELL_FIELDS:
            setattr(self, name, cell_value(name, getattr(self, name), f"generation.{name}"))

    def cell(self) -> SweepCell:
        """Return the default cell."""
        return SweepCell(**dataclasses.asdict(self))


@dataclass
class SweepConfig:
    """Axes of the grid, each a number, a list or "start:stop:step" (stop included); or cells one by one."""

    motion_bucket_id: Any = None
    """Axis over motion_bucket_id."""
    noise_aug_strength: Any = None
    """Axis over noise_aug_strength."""
    fps: Any = None
    """Axis over the conditioning fps."""
    num_inference_steps: Any = None
    """Axis over the number of steps."""
    min_guidance_scale: Any = None
    """Axis over guidance at the first frame."""
    max_guidance_scale: Any = None
    """Axis over guidance at the last frame."""
    decode_chunk_size: Any = None
    """Axis over the VAE's chunk."""
    sampler: Any = None
    """Axis over the samplers, [euler,ays10]; ays10 brings its ten steps unless the steps are an axis too."""
    guidance_sigma_min: Any = None
    """Axis over the lower end of guidance's band of noise levels."""
    guidance_sigma_max: Any = None
    """Axis over the upper end of guidance's band of noise levels."""
    deep_cache_interval: Any = None
    """Axis over the interval of deep features."""
    cells: Any = None
    """A list of cells, each a mapping of the fields that differ from `generation`; excludes axes."""

    def axes(self) -> dict[str, Any]:
        """Return the axes that are swept."""
        return {k: getattr(self, k) for k in CELL_FIELDS if getattr(self, k) is not None}


@dataclass
class RefineConfig:
    """For the verb `refine`: drafts of the whole grid, then the best cells of each picture again in final quality."""

    best: int | None = None
    """Cells of each picture to make in final quality, fewer than the grid has; `refine` needs it, `run` refuses it."""
    metric: str = "motion"
    """Score of a draft: any metric that is a number, see docs/metrics.md."""
    target: float | None = None
    """Take the cells whose score is nearest to this; none takes the highest, or the lowest where less is better."""
    draft: DraftQuality = DraftQuality.draft
    """Quality of the drafts: draft or preview."""

    def __post_init__(self) -> None:
        if self.best is not None:
            _check_int("refine.best", self.best, 1, 1_000_000)
        (name,) = check_names("refine.metric", [self.metric])
        metric = METRICS[name]
        if metric.is_flag:
            raise UserError(f"refine.metric: {name} is true or false and ranks nothing; give a metric that is a number")
        if self.target is not None:
            _check_float("refine.target", self.target, metric.low, metric.high)
        elif self.best is not None and metric.low < 0 and metric.better is None:
            raise UserError(f"refine.target: none given, and the highest {name} is not the best; give one, such as 0")


@dataclass
class MetricsConfig:
    """What is measured of each clip before it is encoded; the verb `score` does it later."""

    names: Any = "all"
    """`all`, or a list of metrics, see docs/metrics.md; [] measures nothing. No part of a video's id."""

    def __post_init__(self) -> None:
        self.chosen()

    def chosen(self) -> tuple[str, ...]:
        """Return the names of the metrics, in the order of their columns."""
        if self.names == "all":
            return tuple(METRICS)
        if isinstance(self.names, str) and self.names in METRICS:
            raise UserError(f"metrics.names: {self.names!r} is not accepted; give a list, [{self.names}]")
        if isinstance(self.names, str) or not isinstance(self.names, Sequence):
            raise UserError(f"metrics.names: {self.names!r} is not accepted; give all or a list, such as [motion]")
        return check_names("metrics.names", self.names)


@dataclass
class MemoryConfig:
    """What is traded for memory; nothing here changes pixels."""

    auto: bool = False
    """Take the fastest of fast, balanced, low and minimal that fits the memory that is free."""
    offload: Offload = Offload.none
    """none keeps all on the device; model moves each part to the GPU while it runs, sequential each layer (CUDA)."""
    forward_chunking: bool = False
    """Run the UNet's feed-forward layers in slices (less peak memory); speed.slice_feed_forward does it on a CPU."""
    split_guidance: bool = False
    """Run the two halves of guidance one after the other (half of the UNet's activations)."""

    def __post_init__(self) -> None:
        if self.auto and (self.offload, self.forward_chunking, self.split_guidance) != (Offload.none, False, False):
            raise UserError(
                "memory.auto: it chooses offload, forward_chunking and split_guidance by itself; leave them out, "
                "or give memory.auto=false"
            )


@dataclass
class SpeedConfig:
    """Exact shortcuts of the engine: within 1e-4 of stock diffusers on [0, 1] pixels, so files may differ by 1/255."""

    collapse_cross_attention: bool = True
    """Replace attention over SVD's single context token by the vector that it always gives."""
    hoist_invariants: bool = True
    """Embed time ids and frame positions once a video, and project before repeating for each frame."""
    slice_feed_forward: Any = "auto"
    """Run feed-forward layers over as many tokens as stay in the cache; auto: on a CPU (on a GPU see `memory`)."""
    split_geglu: bool = True
    """Compute the two halves of a GEGLU one after the other: less memory, and faster (GPU; CPU in bfloat16)."""
    onednn_linear: bool = True
    """Multiply matrices by oneDNN instead of MKL (x86 CPU in float32; twice as fast on AMD)."""
    onednn_conv: bool = True
    """Keep small convolutions' weights in oneDNN's order and add residuals within them (x86 CPU in float32)."""
    split_upsample: bool = True
    """Double and convolve a picture as four small convolutions, 16 products in place of 36 (x86 CPU in float32)."""
    temporal_conv2d: Any = "auto"
    """Compute convolutions along time in two dimensions; auto: on a CPU, which has a faster kernel for these."""
    channels_last: Any = "auto"
    """Keep pictures in the layout in which a CPU convolves up to twice as fast; auto: on a CPU."""
    fused_group_norm: bool = True
    """There, norm and activate in one pass, by a function built with the machine's C compiler (x86 CPU in float32)."""
    winograd: bool = True
    """There, convolve by 3x3 with 16 products where 36 are usual, built likewise (x86 CPU in float32)."""
    fused_feed_forward: bool = True
    """Norm, GEGLU, projection and residual of small layers in one pass, built likewise (x86 CPU in float32)."""
    reuse_conditioning: bool = True
    """Ask CLIP and the VAE once for what the cells of one picture share."""
    keep_memory: bool = True
    """Keep freed memory for the next large arrays (CPU, glibc), in blocks that can grow (GPU)."""
    batch_size: Any = "auto"
    """Videos made at once (on a CPU each on its share of the threads); auto doubles it as long as that pays."""

    compile: Compile = Compile.auto
    """torch.compile of the UNet: off, regional, whole, or auto, which compiles regions on a GPU where that pays."""

    def __post_init__(self) -> None:
        for key in ("slice_feed_forward", "temporal_conv2d", "channels_last"):
            value = getattr(self, key)
            if value != "auto" and not isinstance(value, bool):
                raise UserError(f"speed.{key}: {value!r} is not accepted; give true, false or auto")
        if self.batch_size != "auto":
            _check_int("speed.batch_size", self.batch_size, 1, 1024, "or auto")


@dataclass
class VideoConfig:
    """The written files."""

    codec: Codec = Codec.h264
    """h264 (mp4, yuv420p, faststart), gif, webp (animated), ffv1 (mkv, lossless RGB)."""
    quality: float | None = 6.5
    """0 to 10, 10 best: H.264's CRF is 51 * (1 - quality / 10), WebP's quality is 10 * quality; gif, ffv1: none."""
    playback_fps: int | None = None
    """Frames per second of the file; none plays at the conditioning fps. A GIF rounds each frame to 1/100 s."""
    embed_parameters: bool = True
    """Write the cell, the seed and the model into the file's own metadata (h264 and ffv1 only)."""

    def __post_init__(self) -> None:
        if self.embed_parameters and self.codec in (Codec.gif, Codec.webp):
            raise UserError(f"video.embed_parameters: {self.codec.value} files hold no parameters; give false")
        if self.codec in (Codec.gif, Codec.ffv1):
            if self.quality is not None:
                raise UserError(f"video.quality: {self.codec.value} has no quality setting; give null")
        else:
            _check_float("video.quality", self.quality, 0, 10)
            self.quality = float(self.quality or 0)  # 6 and 6.0 must make the same ids
        if self.playback_fps is not None:
            _check_int("video.playback_fps", self.playback_fps, 1, 50 if self.codec is Codec.gif else 240)


@dataclass
class BackendConfig:
    """Where the stages run."""

    kind: BackendKind = BackendKind.ray
    """ray (Ray Data: processes, GPUs, clusters) or serial (one process, for debugging)."""
    address: str | None = None
    """Ray cluster to join, e.g. `auto`; none starts Ray on this machine."""
    num_actors: Any = None
    """Pipelines held at once: a number, or [min, max] to autoscale; none is one a GPU, else one."""
    num_gpus: float | None = None
    """GPUs an actor reserves, fractions allowed; none is 1 where there are GPUs, else 0."""
    num_cpus: float = 1.0
    """CPUs an actor reserves; picture loading needs at least one more."""
    torch_threads: int | None = None
    """CPU threads of each actor; none is its node's cores divided by the actors there."""
    wait_s: float = 0.0
    """Seconds to wait for nodes to join, where a cluster has no room for the actors yet; 0 fails at once."""

    def __post_init__(self) -> None:
        if self.kind is BackendKind.serial:
            for key in ("address", "num_actors", "num_gpus"):
                if getattr(self, key) is not None:
                    raise UserError(
                        f"backend.{key}: backend=serial has no use for it; leave it out or give backend=ray"
                    )
        if self.num_actors is not None:
            self.num_actors = _actor_range(self.num_actors)
        if self.num_gpus is not None:
            _check_float("backend.num_gpus", self.num_gpus, 0, 64)
            if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
                raise UserError(f"backend.num_gpus: {self.num_gpus:g} is not accepted; above 1 give a whole number")
        _check_float("backend.num_cpus", self.num_cpus, 0.01, 1024)
        _check_float("backend.wait_s", self.wait_s, 0, 1e6)
        if self.torch_threads is not None:
            _check_int("backend.torch_threads", self.torch_threads, 1, 1024)


def _actor_range(value: Any) -> list[int]:
    """Return [min, max] from a number or a pair."""
    pair = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value, value]
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in pair)
    if len(pair) != 2 or not whole or not 1 <= pair[0] <= pair[1] <= 100_000:
        raise UserError(f"backend.num_actors: {value!r} is not accepted; give a whole number from 1 or [min, max]")
    return pair


@dataclass
class LoggerConfig:
    """For the verb `run`: what shows it while it goes on. `+logger=wandb` or `+logger=tensorboard`."""

    kind: LoggerKind | None = None
    """wandb or tensorboard; none logs nothing."""
    interval_s: float = 10.0
    """Seconds between two points of progress; each video's own values are logged as soon as it is finished."""
    folder: str | None = None
    """Where files go: W&B makes FOLDER/wandb. None is OUTPUT/.svd_batch, for TensorBoard its folder tensorboard."""
    project: str | None = None
    """Project of W&B; none is svd_batch."""
    name: str | None = None
    """Name of W&B's run; none is the output folder's."""
    entity: str | None = None
    """Team or user of W&B; none is the account's own."""
    offline: bool = False
    """Write W&B's run to disk alone, to be sent with `wandb sync`; so does WANDB_MODE=offline."""

    def __post_init__(self) -> None:
        _check_float("logger.interval_s", self.interval_s, 0, 3600)
        for key, default in (("interval_s", 10.0), ("folder", None), *_WANDB_KEYS):
            value = getattr(self, key)
            if value != default and self.kind is None:
                raise UserError(f"logger.{key}: no logger is chosen; add +logger=wandb or +logger=tensorboard")
            if value != default and (key, default) in _WANDB_KEYS and self.kind is LoggerKind.tensorboard:
                raise UserError(f"logger.{key}: TensorBoard has no use for it; leave it out or give +logger=wandb")
            if isinstance(value, str) and not value.strip():
                raise UserError(f"logger.{key}: the empty string is not accepted; give a name or leave it out")


_WANDB_KEYS = (("project", None), ("name", None), ("entity", None), ("offline", False))


@dataclass
class OnEndConfig:
    """For `run` and `refine`: who is told when a run has ended, however it did. Nothing of it is written to OUTPUT."""

    url: str | None = None
    """Address that gets a small JSON by POST; https, or http on this machine. '${oc.env:NAME}' keeps it out of `ps`."""
    command: str | None = None
    """Program with arguments, run without a shell; the outcome is in SVD_BATCH_EXIT_CODE, … and, as JSON, on stdin."""
    timeout_s: float = 30.0
    """Seconds for each of the two."""
    allow_http: bool = False
    """Send to addresses with http:// on other machines too; what is sent can then be read on the way."""

    def __post_init__(self) -> None:
        _check_float("on_end.timeout_s", self.timeout_s, 0.1, 86_400)
        if self.url is not None:
            self._check_url(self.url)
        if self.command is not None:
            try:
                words = shlex.split(self.command)
            except ValueError as error:
                raise UserError(f"on_end.command: it can't be split into words: {error}") from None
            if not words:
                raise UserError("on_end.command: the empty string is not accepted; give a program with its arguments")

    def _check_url(self, url: str) -> None:
        """Raise UserError without the address, which may hold a secret."""
        accepted = "give https://…, or http:// on this machine"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise UserError(f"on_end.url: this is no address; {accepted}") from None
        if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f]", url):
            raise UserError(f"on_end.url: this is no address of http or https; {accepted}")
        if parts.scheme == "http" and not self.allow_http and not is_loopback(host):
            raise UserError(
                f"on_end.url: http://{host} would send it in the clear; {accepted}, or on_end.allow_http=true"
            )


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class LimitsConfig:
    """How much of a picture is read; one that passes a limit is a failure."""

    max_pixels: int = Access.max_pixels
    """Pixels by a picture's header, before it is decoded; decoding takes 5 to 14 bytes each."""
    max_bytes: int = Access.max_bytes
    """Bytes of a picture's file."""
    url_timeout_s: float = Access.url_timeout_s
    """Seconds for a picture by URL, its redirects included."""

    def __post_init__(self) -> None:
        _check_int("limits.max_pixels", self.max_pixels, 1, Access.max_pixels)  # Pillow's own is the highest
        _check_int("limits.max_bytes", self.max_bytes, 1, 2**40)
        _check_float("limits.url_timeout_s", self.url_timeout_s, 0.1, 3600)


@dataclass
class BenchConfig:
    """What the verb `bench` measures; no other verb takes it."""

    rounds: int = 3
    """How often all pictures' grids are made by both sides, in turn."""
    pictures: int = 2
    """Pictures to take of the manifest, the first ones, at most; a round's unrounded frames are held in memory."""
    each: bool = False
    """Measure each shortcut that is on by itself as well, with both models loaded anew."""
    json: str | None = None
    """New file for all that was measured; none is outputs/bench/<model>-<time>.json."""

    def __post_init__(self) -> None:
        _check_int("bench.rounds", self.rounds, 1, 1000)
        _check_int("bench.pictures", self.pictures, 1, 100_000)
        if self.json is not None and not self.json.strip():
            raise UserError("bench.json: the empty string is not accepted; give a file")


@dataclass
class Config:
    """The whole job."""

    manifest: Any = None
    """Parquet manifest: a file, a glob, a folder of Parquet parts or a list of them; none is the bundled pictures."""
    shard: str | None = None
    """`3/16`: only the third of 16 parts of the manifest's pictures, for 16 runs with an output each; see `merge`."""
    output: str | None = None
    """Output folder; none is outputs/<manifest's name>, for the bundled pictures outputs/<sweep's name>."""
    seed: int = 42
    """Base seed; each image's own seeds derive from it."""
    num_seeds: int = 1
    """Videos of each cell, with different seeds."""
    seeds: Any = None
    """A list of seeds to use as they are for every image, instead of seed and num_seeds."""
    fit: Fit = Fit.crop
    """crop (centre), pad (black bars) or stretch to the model's size."""
    allow_urls: bool = False
    """Load http and https pictures, from public addresses."""
    allowed_hosts: Any = None
    """Hosts, as `host` or `host:port`, that may have private addresses; for pictures by URL on an intranet."""
    allowed_roots: Any = None
    """Folders that local pictures must lie in, links followed; null is anywhere. Stores to load from: s3://bucket."""
    check_images: CheckImages = CheckImages.sample
    """Pictures opened before the start: none, sample (up to 64) or all."""
    max_failed_fraction: float = 0.5
    """Exit code 3 when more than this fraction of the images has a failure; stops early once that is sure. 1 never."""
    item_timeout_s: float | None = None
    """Seconds that a video may take to generate, asked after each step; then it is a failure. None is no limit."""
    reproducible: bool = False
    """Fix threads, batch and GPU algorithms: the same pixels to the bit for any number of actors and in any order."""
    price_per_gpu_hour: Any = None
    """What an hour of a GPU costs, for `plan`, e.g. {H100: 2.5, L4: 0.8}; in any currency."""
    retry_failed: bool = False
    """Try items again that failed in an earlier run."""
    verbose: bool = False
    """Show the logs of Ray and of the libraries."""
    model: ModelConfig = field(default_factory=ModelConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    on_end: OnEndConfig = field(default_factory=OnEndConfig)

    def __post_init__(self) -> None:
        _check_int("seed", self.seed, 0, 2**63 - 1)
        _check_int("num_seeds", self.num_seeds, 1, 100_000)
        _check_float("max_failed_fraction", self.max_failed_fraction, 0, 1)
        if self.item_timeout_s is not None:
            _check_float("item_timeout_s", self.item_timeout_s, 0.001, 1e6)
        if self.seeds is not None:
            self.seeds = _seed_list(self.seeds)
            if self.num_seeds != 1:
                raise UserError("num_seeds: it excludes seeds=[…]; give one or the other")
        if self.output is not None and not self.output.strip():
            raise UserError("output: the empty string is not accepted; give a folder")
        if self.shard is not None:
            _check_shard(self.shard)
        if self.manifest is not None:
            self.manifest = _manifest_list(self.manifest)
        self.allowed_hosts = _hosts(self.allowed_hosts)
        self.allowed_roots = _roots(self.allowed_roots)
        if self.price_per_gpu_hour is not None:
            self.price_per_gpu_hour = _prices(self.price_per_gpu_hour)
        self.cells()
        if self.reproducible:
            if self.memory.auto:
                raise UserError("memory.auto: it goes by what is free, and reproducible=true fixes all; name a profile")
            self._fix_bits()

    def _fix_bits(self) -> None:
        """Fix what may change bits where it is left open; what is given stays.

        Raises: UserError for a batch: its last one is smaller, so a pixel's last bit would depend on the order of work.
        """
        if self.backend.torch_threads is None:
            self.backend.torch_threads = 1
        if self.speed.batch_size == "auto":
            self.speed.batch_size = 1
        if self.speed.batch_size != 1:
            raise UserError(
                f"speed.batch_size: {self.speed.batch_size} excludes reproducible=true, since what shares a batch "
                "depends on what is done already; give 1 or leave it out"
            )
        if self.speed.compile is Compile.auto:
            self.speed.compile = Compile.off

    def access(self) -> Access:
        """Return what pictures of a manifest may be read, and how much of each."""
        return Access(
            self.allow_urls,
            tuple(self.allowed_hosts or ()),
            tuple(self.allowed_roots or ()),
            self.limits.max_bytes,
            self.limits.max_pixels,
            self.limits.url_timeout_s,
            own_stores(self.manifest or ()),
        )

    def cells(self) -> tuple[SweepCell, ...]:
        """Return the cells of the sweep, before manifest columns fix any."""
        return expand(self.generation.cell(), self.sweep.axes(), self.sweep.cells)


def _check_shard(value: str) -> None:
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", value)
    if match is None or int(match[1]) > int(match[2]):
        raise UserError(f"shard: {value!r} is not accepted; give K/N with K from 1 to N, such as 3/16")


def _seed_list(value: Any) -> list[int]:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise UserError("seeds: the list is empty; give at least one seed")
    for seed in values:
        _check_int("seeds", seed, 0, 2**63 - 1)
    if len(set(values)) != len(values):
        raise UserError(f"seeds: {values} repeats a seed; give each once")
    return values


def _prices(value: Any) -> dict[str, float]:
    names = [gpu.name for gpu in GPUS]
    if not isinstance(value, dict) or not set(value) <= set(names):
        raise UserError(
            f"price_per_gpu_hour: {value!r} is not accepted; give {{NAME: PRICE}}, each name one of {', '.join(names)}"
        )
    for name, price in value.items():
        _check_float(f"price_per_gpu_hour.{name}", price, 0, 1e6)
    return {str(name): float(price) for name, price in value.items()}


def _texts(where: str, value: Any, accepted: str) -> list[str]:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise UserError(f"{where}: {value!r} is not accepted; give {accepted}")
    return values


def _hosts(value: Any) -> list[str] | None:
    """Return hosts in lower case."""
    if value is None:
        return None
    accepted = "a host or a list of them, each as host or host:port, such as images.lan"
    for host in (hosts := _texts("allowed_hosts", value, accepted)):
        if re.search(r"[/@*?#\s\\]", host):
            raise UserError(f"allowed_hosts: {host!r} is not accepted; give {accepted}")
    return [host.lower() for host in hosts]


def _roots(value: Any) -> list[str] | None:
    """Return roots with absolute folders, since actors have working folders of their own."""
    if value is None:
        return None
    accepted = "a folder, a store's address such as s3://bucket, or a list of them"
    for root in (roots := _texts("allowed_roots", value, accepted)):
        if re.match(r"(file|local|https?)://|.*::", root, re.IGNORECASE):
            hint = "; for http and https there are allow_urls and allowed_hosts" if root.startswith("http") else ""
            raise UserError(f"allowed_roots: {root!r} is not accepted; give {accepted}{hint}")
    return [root if "://" in root else os.path.abspath(os.path.expanduser(root)) for root in roots]  # noqa: PTH100, PTH111


def _manifest_list(value: Any) -> list[str]:
    return _texts("manifest", value, "a Parquet file, a glob, a folder or a list of them")


def pixel_settings(config: Config, model_revision: str | None) -> dict[str, Any]:
    """Return everything outside cell, image and seed that changes a video's pixels; part of every video_id."""
    return {
        "model.id": config.model.id,
        "model.revision": model_revision,
        "model.variant": config.model.variant,
        "model.dtype": config.model.dtype.value,
        "model.num_frames": config.model.num_frames,
        "model.height": config.model.height,
        "model.width": config.model.width,
        "fit": config.fit.value,
        "video.codec": config.video.codec.value,
        "video.quality": config.video.quality,
    }


def folder_settings(config: Config, model_revision: str | None) -> dict[str, Any]:
    """Return the settings that one output folder may not mix; `num_seeds` and the grid may grow."""
    return {
        **pixel_settings(config, model_revision),
        "video.playback_fps": config.video.playback_fps,
        "seed": "seeds=[…]" if config.seeds is not None else config.seed,
        **(_bit_settings(config) if config.reproducible else {}),
    }


def _bit_settings(config: Config) -> dict[str, Any]:
    """Return what may change the last bit of a pixel: what `reproducible` fixes for the whole folder."""
    settings: dict[str, Any] = {"reproducible": True, "backend.torch_threads": config.backend.torch_threads}
    for section in ("memory", "speed"):
        for key, value in dataclasses.asdict(getattr(config, section)).items():
            settings[f"{section}.{key}"] = value.value if isinstance(value, Enum) else value
    return settings
