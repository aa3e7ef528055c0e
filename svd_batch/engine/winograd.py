"""3x3 convolutions of a CPU by Winograd's algorithm, in C (winograd.c): 16 products for 4 pixels, not 36.

oneDNN has it no more for x86. Sums are shorter, so that rounding is less than oneDNN's, not more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svd_batch.engine.native import built
from svd_batch.engine.onednn import PACK_BYTES, OneDnnConv, applies, is_channels_last, is_plain_conv, is_small, kept

INPUTS, OUTPUTS = 16, 32
"""winograd.c takes channels by so many."""

_FILTER = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)


def takes_winograd(module: Any) -> bool:
    """Return whether WinogradConv can stand for it: 3x3, pixel by pixel, with channels that fit, not too large."""
    is_plain = is_plain_conv(module) and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
    fits = is_plain and module.in_channels % INPUTS == 0 and module.out_channels % OUTPUTS == 0
    return bool(fits) and module.weight.numel() * 4 <= PACK_BYTES


class WinogradConv(OneDnnConv):
    """A 3x3 convolution of (N, C, H, W) by Winograd's algorithm where that applies and can be built."""

    by_onednn: bool
    """Whether oneDNN does what is left."""

    def forward(self, input: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return (N, C, H, W), with `plus` of that shape added."""
        if not self._takes(input, plus):
            return super().forward(input, plus)
        rows, channels, height, width = input.shape
        weight = kept(self, "winograd", self.weight, (), self._transformed)
        output = torch.empty((rows, self.out_channels, height, width), memory_format=torch.channels_last)
        pointers = (
            None if tensor is None else tensor.data_ptr() for tensor in (input, output, weight, self.bias, plus)
        )
        built("winograd")(*pointers, rows, height, width, channels, self.out_channels)
        return output

    def applies_to(self, input: Tensor) -> bool:
        """Return whether oneDNN takes this input."""
        return self.by_onednn and super().applies_to(input)

    def _takes(self, input: Tensor, plus: Tensor | None) -> bool:
        is_real = type(input) is Tensor and applies(input, self.weight) and is_small(self.weight, PACK_BYTES)
        in_layout = is_real and is_channels_last(input) and (plus is None or is_channels_last(plus))
        return in_layout and built("winograd") is not None

    def _transformed(self) -> Tensor:
        """Return the weight as winograd.c wants it, (16, C_in, C_out)."""
        weight = torch.einsum("ia,ocab,jb->ijco", _FILTER, self.weight.double(), _FILTER)
        return weight.flatten(0, 1).float().contiguous()
