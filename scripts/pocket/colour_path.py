"""The autoencoder's start: mean colour passes from end to end before any training, as good as linear.

GroupNorm takes away the mean of a group and divides by its spread, so the norms before both output convolutions would
leave a flat picture little but the sign of its colour. The way round, in the levels of 96 channels (three to a group):

- Three groups are reserved, each for one of red, green, blue as c, its negative -c, and a constant YARDSTICK. The
  mean of such a group is constant, and so, nearly, is its spread: c comes out scaled, be it a flat colour or a texture.
- silu(x) - silu(-x) = x, so the difference of the two signs passes the activation as it went in.
- What other layers write to these channels starts at zero.

So the first three latents start as the means of 4 x 4 px blocks; training moves all of it freely.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

YARDSTICK = 6.0
GAIN = YARDSTICK * 2**0.5 / 3  # the spread of a group (c, -c, YARDSTICK) for small c
POSITIVE, NEGATIVE, CONSTANT = (0, 3, 6), (1, 4, 7), (2, 5, 8)
COLOURS = POSITIVE + NEGATIVE
NUM_RESERVED = 9
START_LOGVAR = -5.0


def _carry(conv: nn.Module, kernel: torch.Tensor) -> None:
    """Zero what a layer writes to the reserved channels, then let each colour through with a kernel of taps."""
    conv.weight[:NUM_RESERVED] = 0
    if conv.bias is not None:
        conv.bias[:NUM_RESERVED] = 0
    for channel in COLOURS:
        conv.weight[channel, channel] = kernel


def _carry_all(stack: nn.Module, resample_kernel: torch.Tensor) -> None:
    """Carry the colours through every layer of a stack that writes to its residual stream."""
    for name, layer in stack.named_modules():
        if name.endswith((".conv2", ".to_out.0")):
            _carry(layer, torch.zeros(()))
        elif name.endswith("conv_shortcut"):
            _carry(layer, torch.ones(()))
        elif "samplers" in name and name.endswith(".conv"):
            _carry(layer, resample_kernel)


def _enter(conv: nn.Conv2d) -> None:
    """Copy the first three inputs to the colour channels, once with each sign."""
    conv.weight[:NUM_RESERVED] = 0
    conv.bias[:NUM_RESERVED] = 0
    for index in range(3):
        conv.weight[POSITIVE[index], index, 1, 1] = 1
        conv.weight[NEGATIVE[index], index, 1, 1] = -1


def _leave(conv: nn.Conv2d) -> None:
    """Make the first three outputs the colours and nothing else."""
    conv.weight[:3] = 0
    conv.bias[:3] = 0
    for index in range(3):
        conv.weight[index, POSITIVE[index], 1, 1] = GAIN
        conv.weight[index, NEGATIVE[index], 1, 1] = -GAIN


@torch.no_grad()
def set_colour_path(vae: AutoencoderKLTemporalDecoder) -> None:
    """Write the path into a freshly made autoencoder, in place."""
    encoder, decoder = vae.encoder, vae.decoder
    block_mean = torch.zeros(3, 3)
    block_mean[:2, :2] = 0.25  # the downsampler pads at the right and below
    smooth = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16
    for stack, kernel in ((encoder, block_mean), (decoder, smooth)):
        _carry_all(stack, kernel)
        _enter(stack.conv_in)
        _leave(stack.conv_out)
        stack.conv_norm_out.bias[list(COLOURS)] += 0.5**0.5  # the group's mean over its spread
    last_writers = encoder.mid_block.resnets[-1].conv2, decoder.up_blocks[-1].resnets[-1].spatial_res_block.conv2
    for conv in last_writers:
        conv.bias[list(CONSTANT)] = YARDSTICK
    num_latents = vae.config.latent_channels
    encoder.conv_out.weight[num_latents:] = 0
    encoder.conv_out.bias[num_latents:] = START_LOGVAR
    nn.init.dirac_(vae.quant_conv.weight)
    nn.init.zeros_(vae.quant_conv.bias)
    nn.init.dirac_(decoder.time_conv_out.weight)
    nn.init.zeros_(decoder.time_conv_out.bias)
