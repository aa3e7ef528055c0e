"""What an x86 CPU computes in float32 by oneDNN itself: matrix products and convolutions with what may be folded in.

torch reaches oneDNN's convolutions by itself, but brings the weights into oneDNN's order at every call, and what is
added to a result goes through memory once more. Here small weights are kept in that order, and a residual is added
where the result is made. MKL, which torch multiplies matrices by otherwise, leaves half of an AMD processor unused.

Source of what is replaced: diffusers 0.42, models/upsampling.py; torch's ATen/native/mkldnn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from svd_batch.engine.native import is_x86

PACK_BYTES = 1 << 20
"""Weights up to this size are kept a second time, in oneDNN's order: for larger ones the reordering is lost in the
product, and a large model would be held twice."""
PHASES_BYTES = 1 << 23
"""The same for the weights of an upsampling convolution's four phases."""


def on_gpu(tensor: Tensor) -> bool:
    """Return whether the tensor is on a GPU; the estimator answers for the device that it stands in for."""
    return tensor.is_cuda


def has_onednn() -> bool:
    """Return whether torch offers oneDNN's operations with what may be folded into them."""
    has_them = all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_convolution_pointwise"))
    return is_x86() and torch._C._has_mkldnn and has_them


def applies(states: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN takes these: float32 on a CPU, without gradients."""
    plain = not on_gpu(states) and states.dtype == weight.dtype == torch.float32 and states.device == weight.device
    # compiled code comes with products of its own, and its compiler can't take these
    return plain and states.numel() > 0 and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _Kept(dict[str, tuple[Any, Tensor, Tensor]]):
    """What a module keeps of its weights in another form; not copied with it: tensors in oneDNN's order can't be."""

    def __reduce__(self) -> Any:
        return _Kept, ()


def kept(module: nn.Module, name: str, weight: Tensor, shape: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
    """Return make(), from memory as long as it is for the same shape of states and the same weight, unchanged.

    The best order depends on the shape: in another's, weights are brought into the right one at every call.
    """
    kept: _Kept = module.__dict__.setdefault("kept", _Kept())
    key = (weight.data_ptr(), weight._version, *shape)
    found = kept.get(name)
    if found is None or found[0] != key:
        # the weight is held, so that no other can get its address
        found = kept[name] = (key, weight.detach(), make())
    return found[2]


def is_small(weight: Tensor, most: int) -> bool:
    """Return whether to keep up to `most` bytes of weights in another form: not of what doesn't tell of its changes."""
    is_real = type(weight) in (Tensor, nn.Parameter)  # the estimator's tensors have no bytes
    return is_real and not weight.is_inference() and weight.nbytes <= most


class OneDnnLinear(nn.Linear):
    """A linear layer by oneDNN where it applies."""

    def applies_to(self, states: Tensor) -> bool:
        """Return whether oneDNN takes these states."""
        return applies(states, self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return (…, out) for (…, in)."""
        return self.product(input) if self.applies_to(input) else super().forward(input)

    def product(
        self, states: Tensor, then: str = "none", other: Tensor | None = None, part: tuple[int, int] = (0, 1)
    ) -> Tensor:
        """Return (…, out), then "gelu", or "add" or "mul" by `other`.

        `part`: (k, n) for the k-th of n equal parts of the output alone.
        """
        index, count = part
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if count > 1:
            weight, bias = weight.chunk(count)[index], None if bias is None else bias.chunk(count)[index]
        if is_small(self.weight, PACK_BYTES):
            rows = states.numel() // states.shape[-1]
            reorder = torch.ops.mkldnn._reorder_linear_weight
            plain = weight
            weight = kept(self, f"{index} of {count}", plain, [rows], lambda: reorder(plain.contiguous(), rows))
        if other is not None:
            output: Tensor = torch.ops.mkldnn._linear_pointwise.binary(states, other, weight, bias, then)
            return output
        no_tanh = "none"  # of GELU's two algorithms the exact one
        result: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, then, [], no_tanh)
        return result


def is_channels_last(states: Tensor) -> bool:
    """Return whether pictures (N, C, H, W) lie pixel by pixel in memory."""
    return states.ndim == 4 and states.is_contiguous(memory_format=torch.channels_last)


def _convolved(
    module: nn.Module,
    input: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    plus: Tensor | None,
    share: float = 1.0,
) -> Tensor:
    """Return `share` of the convolution of (N, C, H, W) with `weight` and its bias, and `plus`; channels_last.

    A share other than 1 is for small weights alone.
    """
    bias: Any = module.bias
    states = input.contiguous(memory_format=torch.channels_last)
    how = (padding, stride, [1, 1], 1)  # dilation and groups
    if is_small(weight, PACK_BYTES):
        reorder, plain, shape = torch.ops.mkldnn._reorder_convolution_weight, weight, list(states.shape)
        weight = kept(module, f"packed {share}", plain, shape, lambda: reorder(share * plain, *how, shape))
        bias = bias if share == 1.0 or bias is None else share * bias
    convolve = torch.ops.mkldnn._convolution_pointwise
    if plus is None:
        output: Tensor = convolve(states, weight, bias, *how, "none", [], None)
    else:
        output = convolve.binary(states, plus, weight, bias, *how, "add", None, None, [], None)
    return output


class OneDnnConv(nn.Conv2d):
    """A convolution of (N, C, H, W) by oneDNN where it applies."""

    def applies_to(self, input: Tensor) -> bool:
        """Return whether oneDNN takes this input."""
        return type(input) is Tensor and applies(input, self.weight)

    def forward(self, input: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return (N, C, H, W), with `plus` of that shape added."""
        if self.applies_to(input) and (plus is None or is_channels_last(plus)):
            return _convolved(self, input, self.weight, list(self.stride), list(self.padding), plus)  # type: ignore[arg-type]
        output = nn.Conv2d.forward(self, input)
        if plus is not None:
            output += plus
        return output


class TemporalConv(nn.Conv3d):
    """A (3, 1, 1) convolution of (B, C, T, H, W), computed in two dimensions."""

    packs = False
    """Whether oneDNN does it where that applies."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, T, H, W), or (B, C, T, H * W) for such an input."""
        flat, weight = input.flatten(3), self.weight.squeeze(4)
        if self._takes(input, flat):
            output = _convolved(self, flat, weight, [1, 1], [1, 0], None)
        else:
            output = functional.conv2d(flat, weight, self.bias, padding=(1, 0))
        return output if input.ndim == 4 else output.view(*output.shape[:3], *input.shape[3:])

    def added(self, input: Tensor, to: Tensor, share: float) -> Tensor:
        """Return `to` and `share` of the convolution of (B, C, T, H * W); `to` may be changed."""
        if self._takes(input, input) and is_channels_last(to) and is_small(self.weight, PACK_BYTES):
            return _convolved(self, input, self.weight.squeeze(4), [1, 1], [1, 0], to, share)
        return to.add_(self(input), alpha=share)

    def _takes(self, input: Tensor, flat: Tensor) -> bool:
        return self.packs and type(input) is Tensor and applies(input, self.weight) and is_channels_last(flat)


def is_plain_conv(module: Any) -> bool:
    """Return whether OneDnnConv can stand for it."""
    return bool(
        type(module) in (nn.Conv2d, OneDnnConv)
        and module.padding_mode == "zeros"
        and module.groups == 1
        and module.dilation == (1, 1)
        and not isinstance(module.padding, str)
    )


class FastUpsample(Upsample2D):  # type: ignore[misc]
    """Doubling a picture and convolving it by 3x3, as one 2x2 convolution of the small picture for each of 4 phases.

    Where every pixel is there four times, a 3x3 window sees 2x2 different ones; which weights meet on one depends on
    whether row and column are even. 16 products a pixel and channel instead of 36.
    """

    def forward(self, hidden_states: Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """Return (N, C, 2 H, 2 W); any other size as stock does."""
        conv: Any = self.conv
        rows, _, height, width = hidden_states.shape
        takes = output_size is None or tuple(output_size) == (2 * height, 2 * width)
        takes = takes and type(hidden_states) is Tensor and applies(hidden_states, conv.weight)
        if not takes or not is_small(conv.weight, PHASES_BYTES * 9 // 16):
            output: Tensor = super().forward(hidden_states, output_size, *args, **kwargs)
            return output
        states = hidden_states.contiguous(memory_format=torch.channels_last)
        common = ([1, 1], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups

        def make() -> Tensor:
            phases = _phases(conv.weight).contiguous(memory_format=torch.channels_last)
            packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(phases, *common, list(states.shape))
            return packed

        weight = kept(self, "phases", conv.weight, states.shape, make)
        bias = None if conv.bias is None else conv.bias.repeat(4)
        # (N, H + 1, W + 1, 4 C): each phase leaves out its first or its last row and column
        small = torch.ops.mkldnn._convolution_pointwise(states, weight, bias, *common, "none", [], None)
        small = small.permute(0, 2, 3, 1)
        channels = conv.out_channels
        large = small.new_empty(rows, height, 2, width, 2, channels)
        for phase in range(4):
            down, right = divmod(phase, 2)
            part = small[:, down : down + height, right : right + width, phase * channels : (phase + 1) * channels]
            large[:, :, down, :, right].copy_(part)
        doubled: Tensor = large.view(rows, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        return doubled


def _phases(weight: Tensor) -> Tensor:
    """Return (4 C_out, C_in, 2, 2) of a 3x3 weight: even row and column, even and odd, odd and even, both odd."""

    def halves(taps: Sequence[Tensor], dim: int) -> tuple[Tensor, Tensor]:
        first, second, third = taps
        return torch.stack([first, second + third], dim), torch.stack([first + second, third], dim)

    by_row = halves(weight.unbind(2), 2)
    return torch.cat([half for rows in by_row for half in halves(rows.unbind(3), 3)])


def is_plain_upsample(module: nn.Module) -> bool:
    """Return whether FastUpsample can stand for it."""
    if type(module) is not Upsample2D:
        return False
    plain = module.interpolate and module.norm is None and module.use_conv and not module.use_conv_transpose
    conv: Any = getattr(module, "conv", None)
    is_conv = conv is not None and is_plain_conv(conv)
    return bool(plain) and is_conv and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
