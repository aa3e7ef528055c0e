"""Group norm of pictures in the channels_last layout, where torch's is slow or goes through memory seven times.

By sums of torch's own operations for small pictures, and, where the machine has a C compiler, together with SiLU by a
function of this package (group_norm.c), compiled once a process, in a quarter of a second.

Source of what is replaced: torch's ATen/native/cpu/group_norm_kernel.cpp.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from svd_batch.engine.onednn import is_channels_last, is_x86, on_gpu

NATIVE_PIXELS = 1024
"""From here on torch's group norm is quick in the channels_last layout; below it walks over every channel by itself.

Source: feature_map_threshold in torch's file.
"""

LANES = 16
"""Channels that group_norm.c takes at a time: their number must be a multiple."""
SHARE_FLOATS = 1 << 15
"""Numbers that it takes at a time, 128 KiB: they stay in a core's second-level cache from sums to squares."""
COMPILER_FLAGS = [
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-fopenmp",
]
COMPILER_TIMEOUT_S = 60

logger = logging.getLogger(__name__)


def activated(norm: nn.Module, states: Tensor) -> Tensor:
    """Return SiLU(norm(states)), (N, C, …)."""
    if isinstance(norm, FusedGroupNorm):
        return norm(states, activate=True)  # type: ignore[no-any-return]
    return functional.silu(norm(states), inplace=True)


def _is_plain(states: Tensor) -> bool:
    is_float = states.dtype == torch.float32 and not on_gpu(states)
    return is_float and not torch.is_grad_enabled() and is_channels_last(states)


class FastGroupNorm(nn.GroupNorm):
    """Group norm that is quick in the channels_last layout of small pictures, too."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C, …) in the layout of the input."""
        if not _is_plain(input) or input.shape[2:].numel() >= NATIVE_PIXELS:
            return super().forward(input)
        rows = input.permute(0, 2, 3, 1).flatten(1, 2)  # (N, H * W, C), no copy
        # the estimator's tensors must not be remembered
        membership = _membership if type(input) is Tensor else _membership.__wrapped__
        to_groups, to_channels = membership(self.num_channels, self.num_groups)
        mean = rows.mean(1) @ to_groups @ to_channels
        squares = functional.mse_loss(
            rows, mean[:, None].expand_as(rows), reduction="none"
        )  # in one pass over the rows
        deviation = (squares.mean(1) @ to_groups).add_(self.eps).rsqrt_()
        scale = (deviation @ to_channels).mul_(self.weight)
        shift = torch.addcmul(self.bias, mean, scale, value=-1.0)
        normed = torch.addcmul(shift[:, None], rows, scale[:, None])
        return normed.view(len(rows), *input.shape[2:], self.num_channels).permute(0, 3, 1, 2)


@functools.lru_cache(256)
def _membership(num_channels: int, num_groups: int) -> tuple[Tensor, Tensor]:
    """Return what averages channels by group (C, G), and what gives each channel its group's (G, C)."""
    to_channels = torch.eye(num_groups).repeat_interleave(num_channels // num_groups, dim=1)
    return (to_channels.T / (num_channels // num_groups)).contiguous(), to_channels


class FusedGroupNorm(FastGroupNorm):
    """Group norm with or without SiLU in one function; as FastGroupNorm where that doesn't apply or can't be built."""

    def forward(self, input: Tensor, activate: bool = False) -> Tensor:
        """Return (N, C, …) in the layout of the input; `activate`: its SiLU."""
        if not _is_plain(input) or not self._takes(input):
            normed = super().forward(input)
            return functional.silu(normed, inplace=True) if activate else normed
        if type(input) is not Tensor:  # the estimator's: what is allocated is the output alone
            return torch.empty_like(input)
        function = compiled()
        assert function is not None
        channels, pixels = self.num_channels, input.shape[2:].numel()
        share = max(1, SHARE_FLOATS // channels)
        output = torch.empty_like(input)
        room = torch.empty(2 * channels * len(input) * (-(-pixels // share) + 1))
        function(
            *(tensor.data_ptr() for tensor in (input, output, self.weight, self.bias, room)),
            *(len(input), pixels, channels, self.num_groups, share),
            *(self.eps, activate),
        )
        return output

    def _takes(self, input: Tensor) -> bool:
        fits = self.affine and self.num_channels % LANES == 0 and input.numel() > 0
        is_same = fits and self.weight.dtype == input.dtype and self.weight.device == input.device
        return is_same and not torch.compiler.is_compiling() and compiled() is not None


@functools.cache
def compiled() -> Any:
    """Return group_norm.c's function, or None where no C compiler makes one that this process can load."""
    if not is_x86():
        return None
    found = (shutil.which(name) for name in (os.environ.get("CC"), "gcc", "cc") if name)
    for compiler in filter(None, found):
        try:
            return _build(compiler)
        except (OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None) or error
            logger.info("group norm stays torch's: %s can't build group_norm.c: %s", compiler, told)
    return None


def _build(compiler: str) -> Any:
    source = Path(__file__).with_name("group_norm.c")
    with tempfile.TemporaryDirectory(prefix="svd_batch_") as folder:
        compiled, library = f"{folder}/group_norm.o", f"{folder}/group_norm.so"
        # linked without OpenMP, of which torch has loaded one: a second one's threads would fight with its threads
        for arguments in ([*COMPILER_FLAGS, "-c", str(source), "-o", compiled], ["-shared", compiled, "-o", library]):
            subprocess.run(
                [compiler, *arguments], check=True, capture_output=True, text=True, timeout=COMPILER_TIMEOUT_S
            )
        function = ctypes.CDLL(library).group_norm
    function.restype = None
    function.argtypes = [*[ctypes.c_void_p] * 5, *[ctypes.c_long] * 5, ctypes.c_float, ctypes.c_int]
    return function
