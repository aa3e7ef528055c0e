"""torch.compile of the UNet: whole or by regions, only while it can win back its time, with one cache for all runs.

Regions are the blocks that a UNet repeats, so that each shape is compiled once and not each layer: SVD's UNet doesn't
name its own (`_repeated_blocks`). `reduce-overhead` isn't used: its graphs fail on the second picture.
Source: https://github.com/huggingface/diffusers/issues/10317
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

from svd_batch.config import Compile
from svd_batch.engine.fast_unet import FastUNet

T = TypeVar("T")

REGIONS = (TransformerSpatioTemporalModel, SpatioTemporalResBlock)
EXPECTED_GAIN = 1.24
"""Seconds of a video before compiling over those after it that `auto` counts on for a GPU, until it has measured.

On an H200 a step of SVD-XT takes 0.528 s, and 0.408 compiled; with decoding, a video of 25 steps is 1.24 times as fast
(docs/log.md, 2026-11-26 and -27).
"""
EXPECTED_COMPILE_S = 200.0
"""What compiling is taken to cost where this machine has no figure of its own yet: 194 s there, 25 s from the cache."""


def cache_folder() -> Path:
    """Return where compiled code stays for later actors and runs; TORCHINDUCTOR_CACHE_DIR is heeded."""
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(home) / "svd_batch" / "inductor"


def _notes() -> Path:
    return cache_folder() / "svd_batch_compile_s.json"


def pays(num_videos: int, video_s: float, compile_s: float, gain: float) -> bool:
    """Return whether compiling for `compile_s` is won back over videos that take `video_s` seconds each before it."""
    return num_videos * video_s * (1 - 1 / gain) > compile_s


class Compiler:
    """Compiles a loaded UNet when told to, or when that pays; goes back where it turned out slower.

    `auto` decides after the first videos, from their measured seconds, the number of videos still to come, and what
    compiling cost on this machine the last time. On a CPU it never does: there the shortcuts of fast_unet.py are
    faster than what inductor makes of them (docs/log.md).
    """

    def __init__(self, unet: Any, mode: Compile, key: str, num_videos: int | None = None) -> None:
        self.unet, self.mode, self.key = unet, mode, key
        self.is_compiled = False
        self.num_left = num_videos or 0
        self._eager_s: float | None = None
        """Seconds of the quickest video before compiling."""
        self._num_batches = 0
        """Batches since compiling; the first does the compiling."""
        if mode is not Compile.off:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder())
        if mode in (Compile.regional, Compile.whole):
            self._compile()

    def _compile(self) -> None:
        """Make the UNet compile itself at its next call."""
        regions = [m for m in self.unet.modules() if isinstance(m, REGIONS)]
        limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
        setattr(torch._dynamo.config, limit, max(64, len(regions)))  # a shape each at the most
        if self.mode is not Compile.whole:
            for region in regions:
                region.compile(dynamic=False)
        elif isinstance(self.unet, FastUNet):  # what it remembers from step to step stays outside
            setattr(self.unet, "denoise", torch.compile(self.unet.denoise, dynamic=False))  # noqa: B010  (mypy)
        else:
            self.unet.compile(dynamic=False)
        self.is_compiled, self._num_batches = True, 0

    def give_up(self) -> None:
        """Go back to the UNet as it was."""
        for region in self.unet.modules():
            region._compiled_call_impl = None
        self.is_compiled, self.mode = False, Compile.off

    def run(self, work: Callable[[], T], *, is_usual: bool = True) -> T:
        """Return work(); batches of an unusual size run as if nothing were compiled, rather than compile for them."""
        if self.is_compiled and not is_usual and self._num_batches:
            with torch.compiler.set_stance("force_eager"):
                return work()
        return work()

    def measured(self, num_videos: int, seconds: float, *, is_usual: bool) -> None:
        """Count a batch and decide: compile after a usual one where that pays, give up where it was slower."""
        self.num_left -= num_videos
        if not is_usual:
            return
        video_s = seconds / num_videos
        if self.is_compiled:
            self._num_batches += 1
            if self._num_batches == 1:
                self._remember(seconds)
            elif self.mode is Compile.auto and self._eager_s is not None and video_s > self._eager_s:
                self.give_up()
            return
        self._eager_s = min(video_s, self._eager_s or video_s)
        on_gpu = next(self.unet.parameters()).is_cuda
        if self.mode is Compile.auto and on_gpu and pays(self.num_left, video_s, self._compile_s(), EXPECTED_GAIN):
            self._compile()

    def _compile_s(self) -> float:
        with suppress(OSError, ValueError, TypeError, LookupError):
            return float(json.loads(_notes().read_text())[self.key])
        return EXPECTED_COMPILE_S

    def _remember(self, seconds: float) -> None:
        """Note what the first batch with compiling took: the next run finds the code in the cache and decides by it."""
        known: dict[str, float] = {}
        with suppress(OSError, ValueError, TypeError):
            known = dict(json.loads(_notes().read_text()))
        with suppress(OSError):
            _notes().parent.mkdir(parents=True, exist_ok=True)
            temporary = _notes().with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({**known, self.key: round(seconds, 1)}))
            temporary.replace(_notes())
