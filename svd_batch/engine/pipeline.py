"""One loaded SVD pipeline: a picture and a cell in, frames out.

Weights come from a local folder (see checkpoint.py), safetensors only; the device is CUDA where there is
one, else the CPU.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.schedulers import AysSchedules
from numpy.typing import NDArray
from PIL import Image

from svd_batch.checkpoint_files import read_configs
from svd_batch.config import Compile, MemoryConfig, ModelConfig, SpeedConfig
from svd_batch.engine.batching import BatchSize, Lanes, batch_key
from svd_batch.engine.compiling import Compiler
from svd_batch.engine.embedding import embed
from svd_batch.engine.fit import Demand, check_fits, choose, too_little
from svd_batch.engine.generated import EngineInfo, Generated
from svd_batch.engine.machine import (
    available_bytes,
    check_machine,
    cpu_name,
    device_type,
    grow_gpu_segments,
    keep_freed_memory,
    peak_memory_bytes,
    reset_peak_resident_bytes,
)
from svd_batch.engine.memory import apply_speed, is_out_of_memory, place, recover, set_activations
from svd_batch.engine.sweep_pipeline import SVDSweepPipeline
from svd_batch.engine.weights import check_weights
from svd_batch.errors import ItemError, ItemTimeoutError, StoppingError, UserError
from svd_batch.images import one_line
from svd_batch.profiles import PROFILES, check_compile, compile_mode, must_compile, next_profile, profile_name
from svd_batch.records import SweepCell

SIGMAS: dict[str, list[float] | None] = {"euler": None, "ays10": AysSchedules["StableDiffusionVideoSigmas"]}
"""The noise levels that each sampler gives to the scheduler; None leaves them to num_inference_steps."""

PER_SAMPLE = ("motion_bucket_id", "noise_aug_strength", "fps", "min_guidance_scale", "max_guidance_scale")
LARGEST_BATCH = 64
ROOM = 0.8
"""Share of the free memory that the videos of a batch may take."""


def engine_info(device: torch.device) -> EngineInfo:
    """Return what computes on a device."""
    return EngineInfo(
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        diffusers_version=diffusers.__version__,
        torch_version=torch.__version__,
    )


class Engine:
    """A pipeline held in memory.

    `heaviest` is the cell that takes the most memory of all that will be asked for: `memory=auto` chooses for it, and
    what it can't fit is refused; without it nothing is. `memory_share` is how much of the free memory is for this
    engine. An engine that runs out of memory takes the next profile and stays there, unless `steps_down` is False.
    A video that takes longer than `item_timeout_s` is given up at the end of a denoising step.

    Raises: UserError when the settings don't fit the checkpoint or the machine.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelConfig,
        memory: MemoryConfig,
        speed: SpeedConfig,
        torch_threads: int | None = None,
        num_videos: int | None = None,
        *,
        heaviest: SweepCell | None = None,
        memory_share: float = 1.0,
        steps_down: bool = True,
        item_timeout_s: float | None = None,
    ) -> None:
        self.torch_threads = torch_threads or torch.get_num_threads()
        torch.set_num_threads(self.torch_threads)
        self.keep_pixels = False
        """Whether to hand on unrounded pixels too; four times the frames' memory."""
        self.model = model
        self.device = torch.device(device_type())
        check_machine(model, memory, self.device.type)
        check_compile(memory, speed)
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        if speed.keep_memory:
            keep_freed_memory() if self.device.type == "cpu" else grow_gpu_segments()
        self.notes: list[str] = []
        """Sentences for the person who waits; whoever hands them on empties the list."""
        self.folder, self.speed, self.steps_down = folder, speed, steps_down
        self.item_timeout_s = item_timeout_s
        self._is_cancelled = threading.Event()
        self.memory = self._settle(memory, heaviest, memory_share)
        self.pipe = _load(folder, model)
        apply_speed(self.pipe, speed, self.memory, self.device.type)
        place(self.pipe, self.memory, self.device)
        self.pipe.set_progress_bar_config(disable=True)
        key = f"{folder} {model} {self.device} {torch.__version__} {self.info().device_name} {speed}"
        self._compiler = Compiler(self.pipe.unet, compile_mode(self.memory, speed), key, num_videos)
        self._lanes = Lanes(self.pipe)
        self._fixed_batch_size = None if speed.batch_size == "auto" else int(speed.batch_size)
        self._batch_sizes: dict[Hashable, BatchSize] = {}
        self._most: int | None = None
        """Videos that memory has room for; None until the first is made."""

    def _settle(self, memory: MemoryConfig, heaviest: SweepCell | None, share: float) -> MemoryConfig:
        """Return the settings that will hold: those given, where they can fit, or what auto chooses.

        Raises: UserError.
        """
        if heaviest is None:
            if memory.auto:
                raise UserError("memory=auto chooses for a given cell; without one name a profile")
            return memory
        demand = self._demand(heaviest)
        free = available_bytes(self.device)
        free = None if free is None else int(share * free)
        if memory.auto:
            memory, why = choose(demand, free, self.info().device_name, compiled=must_compile(self.speed))
            self.notes.append(why)
        else:
            check_fits(demand, memory, free, self.info().device_name)
        return memory

    def _demand(self, cell: SweepCell) -> Demand:
        return Demand(read_configs(self.folder), self.model, self.speed, cell, self.device.type)

    def info(self) -> EngineInfo:
        """Return what this engine runs on."""
        return engine_info(self.device)

    def cancel(self) -> None:
        """Let whatever is in the making end with StoppingError at its next step, for good; callable from any thread."""
        self._is_cancelled.set()

    def generate(self, picture: NDArray[np.uint8], cell: SweepCell, seed: int) -> Generated:
        """Return one video of a picture (H, W, 3) of the model's size.

        The generator lives on the CPU, as in diffusers' guide, so that a seed means the same noise on every device.
        """
        return self.generate_batch(picture, [(cell, seed)])[0].result()

    @staticmethod
    def batch_key(cell: SweepCell) -> Hashable:
        """Return what cells that share a batch have in common."""
        return batch_key(cell)

    def batch_size(self, cell: SweepCell, available: int) -> int:
        """Return how many of `available` videos, of cells that share a batch with `cell`, to make next at once."""
        return self._batch_size(cell).choose(available)

    def num_lanes(self, cell: SweepCell) -> int:
        """Return how many videos to make at once with `generate_in_lane`; 1: none, they are to be made in batches.

        So it is on a GPU, and on a CPU until batches have told how many at once are the quickest and fit.
        """
        if self.device.type == "cuda" or self._most is None:
            return 1
        return self._batch_size(cell).settled or 1

    @property
    def num_writers(self) -> int:
        """How many threads may measure and encode its videos at once: a GPU leaves the machine's cores free."""
        return 4 if self.device.type == "cuda" else 1

    def submit(self, lane: int, work: Callable[[], Any]) -> Future[Any]:
        """Begin with work() in the thread of a lane from the second (1) on; the first has its caller's."""
        return self._lanes.submit(lane, work)

    def generate_in_lane(self, lane: int, picture: NDArray[np.uint8], cell: SweepCell, seed: int) -> Future[Generated]:
        """Return a finished future for one video, made beside those of other lanes; to be called in the lane's thread.

        One that runs out of memory is made again when the others are done, as a batch, and fewer at once from then on.
        """
        num_lanes = self.num_lanes(cell)
        threads = max(1, self.torch_threads // num_lanes)
        made: Future[list[Generated]] = Future()
        with self._lanes.taken(lane, threads) as pipe:
            start = time.perf_counter()
            try:
                made.set_result(self._call(pipe, picture, [(cell, seed)], self._stopper(num_lanes)))
            except Exception as error:
                made.set_exception(error)
            seconds, peak = (time.perf_counter() - start) / num_lanes, self._lanes.peak_bytes(lane)
        if is_out_of_memory(made.exception()):
            _forget_frames(made.exception())
            with self._lanes.alone():
                recover(self.pipe, getattr(torch, self.model.dtype.value))
                if self.steps_down:
                    self._most = self._lanes.most = max(1, num_lanes // 2)
                    self._batch_size(cell).limit(self._most)
                return self.generate_batch(picture, [(cell, seed)])[0]
        costs = {"peak_memory_bytes": peak, "generate_s": seconds, "torch_threads": threads}
        return _finished(made, num_lanes, costs)

    def _batch_size(self, cell: SweepCell) -> BatchSize:
        most = self.torch_threads if self.device.type == "cpu" else LARGEST_BATCH
        new = BatchSize(min(most, self._most or most), self._fixed_batch_size)
        return self._batch_sizes.setdefault(batch_key(cell), new)

    def generate_batch(
        self, picture: NDArray[np.uint8], asked: Sequence[tuple[SweepCell, int]]
    ) -> list[Future[Generated]]:
        """Return a finished future for each (cell, seed), of cells that share a batch (`batching.batch_key`).

        On a CPU each video has threads of its own, on a GPU all go through the UNet together. Videos that run out of
        memory are made again: fewer at once, and one that was alone with the next memory profile.
        """
        made = self._attempt(picture, asked)
        if any(isinstance(future.exception(), ItemTimeoutError) for future in made):
            self.pipe.maybe_free_model_hooks()  # as the end of a call does
        short = [i for i, future in enumerate(made) if is_out_of_memory(future.exception())]
        if not short:
            return made
        for i in short:
            _forget_frames(made[i].exception())
        recover(self.pipe, getattr(torch, self.model.dtype.value))
        half = max(1, len(asked) // 2)
        if len(asked) > 1 and self.steps_down:
            self._most = half
            self._batch_size(asked[0][0]).limit(half)
        elif not self._step_down():
            why = "no profile takes less here" if self.steps_down else "reproducible=true allows no other"
            needed = too_little(self._demand(asked[0][0]), self.memory, available_bytes(self.device), why)
            return [_failed(ItemError(needed)) if i in short else future for i, future in enumerate(made)]
        for start in range(0, len(short), half):
            some = short[start : start + half]
            again = self.generate_batch(picture, [asked[i] for i in some])
            for i, future in zip(some, again, strict=True):
                made[i] = future
        return made

    def _step_down(self) -> bool:
        """Take the next memory profile; return False where there is none, or none may be taken."""
        name = None
        if self.steps_down:
            name = next_profile(self.memory, self.device.type, compiled=must_compile(self.speed))
        if name is None:
            return False
        self.notes.append(
            f"out of memory with memory={profile_name(self.memory)}: memory={name} from here on; the video is made "
            "again, with the same id and pixels"
        )
        self.memory = PROFILES[name]
        if compile_mode(self.memory, self.speed) is Compile.off:
            self._compiler.give_up()
        set_activations(self.pipe, self.memory)
        place(self.pipe, self.memory, self.device)
        self._lanes.renew()
        return True

    def _attempt(self, picture: NDArray[np.uint8], asked: Sequence[tuple[SweepCell, int]]) -> list[Future[Generated]]:
        """Return a finished future for each video, made all at once."""
        torch.set_num_threads(self.torch_threads)  # per thread under OpenMP, and callers run us in their own
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak_resident_bytes()
        before, room = peak_memory_bytes(self.device), available_bytes(self.device)
        size = self._batch_size(asked[0][0])
        is_usual = len(asked) == size.settled
        start = time.perf_counter()
        made = self._compiler.run(partial(self._make, picture, asked), is_usual=is_usual)
        seconds, peak = time.perf_counter() - start, peak_memory_bytes(self.device)
        if self._most is None:
            each = max(1, (peak - before) / len(asked))
            self._most = size.most if room is None else max(1, int(ROOM * room / each))
        size.limit(min(size.most, self._most))
        size.measured(len(asked), seconds)
        self._compiler.measured(len(asked), seconds, is_usual=is_usual)
        threads = self.torch_threads if cuda else max(1, self.torch_threads // len(asked))
        costs = {"peak_memory_bytes": peak, "generate_s": seconds / len(asked), "torch_threads": threads}
        return [_finished(future, len(asked), costs) for future in made]

    def _make(
        self, picture: NDArray[np.uint8], asked: Sequence[tuple[SweepCell, int]]
    ) -> list[Future[list[Generated]]]:
        if self.device.type == "cuda":
            return self._together(picture, asked)
        stop = self._stopper(len(asked))  # lanes share the cores, as the videos of one call share the GPU
        calls = [partial(self._call, picture=picture, asked=[one], stop=stop) for one in asked]
        return self._lanes.run(calls, self.torch_threads)

    def _together(
        self, picture: NDArray[np.uint8], asked: Sequence[tuple[SweepCell, int]]
    ) -> list[Future[list[Generated]]]:
        """Return the videos of one call of the pipeline, or of a call each where that fails and one may be to blame."""
        whole: Future[list[Generated]] = Future()
        try:
            videos = self._call(self.pipe, picture, asked, self._stopper(len(asked)))
        except Exception as error:
            if len(asked) > 1 and (is_out_of_memory(error) or isinstance(error, (ItemTimeoutError, StoppingError))):
                return [_failed(error) for _ in asked]
            if len(asked) > 1:
                return [future for one in asked for future in self._together(picture, [one])]
            whole.set_exception(error)
            return [whole]
        results: list[Future[list[Generated]]] = [Future() for _ in videos]
        for result, video in zip(results, videos, strict=True):
            result.set_result([video])
        return results

    def _stopper(self, num_videos: int) -> Callable[..., dict[str, Any]]:
        """Return what ends a call of the pipeline at a step's end, once it is cancelled or takes too long.

        The clock starts now. It is a batch's, so each video gives it its own time.
        """
        start, limit_s = time.monotonic(), self.item_timeout_s

        def check(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if self._is_cancelled.is_set():
                raise StoppingError("the run is being stopped")
            if limit_s is None:
                return {}
            if self.device.type == "cuda":  # it is asked for steps far ahead of those that it has done
                torch.cuda.synchronize(self.device)
            seconds = (time.monotonic() - start) / num_videos
            if seconds > limit_s:
                raise ItemTimeoutError(
                    f"took longer than item_timeout_s={limit_s:g}: {seconds:.1f} s at the end of denoising step "
                    f"{step + 1} of {pipe._num_timesteps}"
                )
            return {}

        return check

    def _call(
        self,
        pipe: Any,
        picture: NDArray[np.uint8],
        asked: Sequence[tuple[SweepCell, int]],
        stop: Callable[..., dict[str, Any]],
    ) -> list[Generated]:
        """Return one call's videos; `stop` is called after each step."""
        cells = [cell for cell, _ in asked]
        generators = [torch.Generator("cpu").manual_seed(seed) for _, seed in asked]
        each: dict[str, Any] = {name: [getattr(cell, name) for cell in cells] for name in PER_SAMPLE}
        each["generator"] = generators
        if len(asked) == 1:  # as stock is called
            each = {name: values[0] for name, values in each.items()}
        shared = cells[0]
        videos = pipe(
            Image.fromarray(picture),
            height=self.model.height,
            width=self.model.width,
            num_frames=self.model.num_frames,
            num_inference_steps=shared.num_inference_steps,
            decode_chunk_size=shared.decode_chunk_size,
            sigmas=SIGMAS[shared.sampler],
            guidance_sigma_min=shared.guidance_sigma_min,
            guidance_sigma_max=shared.guidance_sigma_max,
            deep_cache_interval=shared.deep_cache_interval,
            callback_on_step_end=stop,
            output_type="np",
            **each,
        ).frames  # (samples, T, H, W, 3) float in [0, 1]
        return [self._generated(pipe, video, len(asked)) for video in videos]

    def _generated(self, pipe: Any, video: NDArray[np.float32], num_samples: int) -> Generated:
        """Return a video with what its call can tell.

        Raises: ValueError when no frame is a picture; where some are, `num_nan_frames` tells of the others.
        """
        num_nan_frames = sum(not np.isfinite(frame).all() for frame in video)
        if num_nan_frames == len(video):
            raise ValueError("the model returned NaN or infinite pixels in every frame")
        phases = {f"{phase}_s": seconds / num_samples for phase, seconds in pipe.seconds.items()}
        finite = np.nan_to_num(video, nan=0.0, posinf=0.0, neginf=0.0) if num_nan_frames else video
        frames = (finite * 255).round().astype(np.uint8)
        kept: dict[str, Any] = {"pixels": video if self.keep_pixels else None, "num_nan_frames": num_nan_frames}
        return Generated(frames, num_samples, 1, 0.0, profile_name(self.memory), 0, **kept, **phases)

    def embed(self, pictures: Sequence[NDArray[np.uint8]], torch_threads: int | None = None) -> NDArray[np.float32]:
        """Return CLIP's embeddings (N, D) of pictures (H, W, 3), by the checkpoint's own image encoder.

        To be called in the thread that computes: where parts wait in host memory their hooks move this one too.
        """
        torch.set_num_threads(torch_threads or self.torch_threads)
        pipe, extractor = self.pipe, self.pipe.feature_extractor
        found = embed(pipe.image_encoder, extractor.image_mean, extractor.image_std, pipe._execution_device, pictures)
        pipe.maybe_free_model_hooks()
        return found


def _failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _forget_frames(error: BaseException | None) -> None:
    """Drop what an error holds of the calls that it ended: their tensors are what there was no room for."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _finished(made: Future[list[Generated]], batch_size: int, costs: dict[str, Any]) -> Future[Generated]:
    """Return a video with what only the whole batch can tell."""
    result: Future[Generated] = Future()
    error = made.exception()
    if error is not None:
        result.set_exception(error)
        return result
    (video,) = made.result()
    share = batch_size // video.batch_size  # videos in lanes beside this one; those of one call share already
    phases = {name: getattr(video, name) / share for name in ("condition_s", "denoise_s", "decode_s")}
    result.set_result(dataclasses.replace(video, batch_size=batch_size, **costs, **phases))
    return result


def _load(folder: Path, model: ModelConfig) -> Any:
    check_weights(folder, model.variant)
    try:
        return SVDSweepPipeline.from_pretrained(
            folder,
            torch_dtype=getattr(torch, model.dtype.value),
            variant=model.variant,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model.id: {folder} does not load as an SVD checkpoint: {one_line(error)}") from error
