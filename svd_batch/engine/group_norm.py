"""Group norm of pictures in the channels_last layout, where torch's is slow or goes through memory seven times.

By sums of torch's own operations for small pictures, and together with SiLU by a function in C (group_norm.c) where
the machine has a compiler.

Source of what is replaced: torch's ATen/native/cpu/group_norm_kernel.cpp.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from svd_batch.engine.native import built
from svd_batch.engine.onednn import is_channels_last, on_gpu

NATIVE_PIXELS = 1024
"""From here on torch's group norm is quick in the channels_last layout; below it walks over every channel by itself.

Source: feature_map_threshold in torch's file.
"""

LANES = 16
"""Channels that group_norm.c takes at a time: their number must be a multiple."""
SHARE_FLOATS = 1 << 15
"""Numbers that it takes at a time, 128 KiB: they stay in a core's second-level cache from sums to squares."""


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
        channels, pixels = self.num_channels, input.shape[2:].numel()
        share = max(1, SHARE_FLOATS // channels)
        output = torch.empty_like(input)
        room = torch.empty(2 * channels * len(input) * (-(-pixels // share) + 1))
        built("group_norm")(
            *(tensor.data_ptr() for tensor in (input, output, self.weight, self.bias, room)),
            *(len(input), pixels, channels, self.num_groups, share),
            *(self.eps, activate),
        )
        return output

    def _takes(self, input: Tensor) -> bool:
        fits = self.affine and self.num_channels % LANES == 0 and input.numel() > 0
        is_same = fits and self.weight.dtype == input.dtype and self.weight.device == input.device
        return is_same and not torch.compiler.is_compiling() and built("group_norm") is not None
