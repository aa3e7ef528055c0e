"""Training of the autoencoder: sharp pictures, latents of unit spread, mean colour kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch.nn import functional

from pocket.architecture import SIZES, build_vae
from pocket.colour_path import set_colour_path
from pocket.data import make_clip
from pocket.stage import Plan, Stage, generator_for

SIZE = SIZES["pocket"]
FRAMES_A_STEP = 16
KL_WEIGHT = 1e-3
STRUCTURE_WEIGHT = 0.3
MAX_LATENT_NOISE = 0.3


def frames_to_tensor(frames: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) as float32 (N, 3, H, W), -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_frames(seed: int, step: int, num_frames: int) -> torch.Tensor:
    """A batch of clips, one after the other: (FRAMES_A_STEP, 3, h, w), -1 to 1, a random window of half the size."""
    rng = np.random.default_rng((seed, 1, step))
    height, width = SIZE.height // 2, SIZE.width // 2
    windows = []
    for _ in range(FRAMES_A_STEP // num_frames):
        frames = make_clip(rng, (SIZE.height, SIZE.width), num_frames).frames
        top, left = rng.integers(0, height + 1), rng.integers(0, width + 1)
        windows.append(frames_to_tensor(frames[:, top : top + height, left : left + width]))
    return torch.cat(windows)


def _slopes(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences to the right and lower neighbour."""
    return images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :]


def structural_dissimilarity(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - SSIM over 7 x 7 px windows, the mean over (N, 3, H, W) in -1 to 1. Source: Wang et al. 2004."""
    luminance_floor, contrast_floor = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    moments = torch.cat([output, target, output.square(), target.square(), output * target])
    a, b, aa, bb, ab = functional.avg_pool2d(moments, 7, stride=1).chunk(5)
    contrast = (2 * (ab - a * b) + contrast_floor) / (aa - a.square() + bb - b.square() + contrast_floor)
    luminance = (2 * a * b + luminance_floor) / (a.square() + b.square() + luminance_floor)
    return 1 - (luminance * contrast).mean()


def _changes(frames: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Differences to the next frame of the same clip."""
    clips = frames.unflatten(0, (-1, num_frames))
    return clips[:, 1:] - clips[:, :-1]


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor, num_frames: int) -> torch.Tensor:
    """L1 on pixels, slopes (edges), changes in time (flicker) and quarter-size pictures (colour); SSIM (texture)."""
    edges = sum(functional.l1_loss(a, b) for a, b in zip(_slopes(output), _slopes(target), strict=True))
    return (
        functional.l1_loss(output, target)
        + edges
        + functional.l1_loss(_changes(output, num_frames), _changes(target, num_frames))
        + functional.l1_loss(functional.avg_pool2d(output, 4), functional.avg_pool2d(target, 4))
        + STRUCTURE_WEIGHT * structural_dissimilarity(output, target)
    )


def vae_loss(vae: AutoencoderKLTemporalDecoder, seed: int, step: int, num_steps: int) -> torch.Tensor:
    """The loss of one step. Short clips first, for variety; then clips of full length, as the pipeline decodes them."""
    num_frames = 4 if step < 0.6 * num_steps else SIZE.num_frames
    target = draw_frames(seed, step, num_frames)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(target).latent_dist
        mean, std, logvar = posterior.mean.float(), posterior.std.float(), posterior.logvar.float()
        latents = mean + std * torch.randn(mean.shape, generator=generator_for(seed, step))
        output = vae.decode(latents, num_frames=num_frames).sample
    divergence = 0.5 * (mean.square() + std.square() - 1 - logvar).mean()
    return reconstruction_loss(output.float(), target, num_frames) + KL_WEIGHT * divergence


def decoder_loss(vae: AutoencoderKLTemporalDecoder, seed: int, step: int) -> torch.Tensor:
    """The loss of one step with the encoder as it is: latents with some noise, as the denoiser leaves it, to frames."""
    target = draw_frames(seed + 3, step, 4)
    generator = generator_for(seed + 3, step)
    strength = MAX_LATENT_NOISE * torch.rand(FRAMES_A_STEP // 4, generator=generator).repeat_interleave(4)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            latents = vae.encode(target).latent_dist.mode().float()
        noise = strength[:, None, None, None] * torch.randn(latents.shape, generator=generator)
        output = vae.decode(latents + noise, num_frames=4).sample
    return reconstruction_loss(output.float(), target, num_frames=4)


@torch.no_grad()
def fold_spread(vae: AutoencoderKLTemporalDecoder, seed: int, num_batches: int = 16) -> torch.Tensor:
    """Scale the weights so that each latent channel has standard deviation 1; returns what it was before, (C,)."""
    latents = torch.cat([vae.encode(draw_frames(seed + 1, i, 4)).latent_dist.mode() for i in range(num_batches)])
    std = latents.std(dim=(0, 2, 3))
    num_channels = len(std)
    vae.quant_conv.weight[:num_channels] /= std[:, None, None, None]
    vae.quant_conv.bias[:num_channels] /= std
    vae.quant_conv.bias[num_channels:] -= 2 * std.log()
    vae.decoder.conv_in.weight *= std[None, :, None, None]
    return std


@torch.no_grad()
def psnr(vae: AutoencoderKLTemporalDecoder, frames: torch.Tensor, num_frames: int) -> float:
    """Peak signal to noise of the round trip in dB, the mean over (N, 3, H, W) frames in -1 to 1."""
    output = vae.decode(vae.encode(frames).latent_dist.mode(), num_frames=num_frames).sample.clamp(-1, 1)
    errors = ((output - frames) / 2).square().mean(dim=(1, 2, 3))
    return float(-10 * errors.log10().mean())


def train_vae(work: Path, seed: int, num_steps: int) -> AutoencoderKLTemporalDecoder:
    """The trained autoencoder, with unit latents. Reads and writes snapshots in the work folder."""
    torch.manual_seed(seed)
    vae = build_vae(SIZE)
    set_colour_path(vae)
    stage = Stage(Plan("vae", num_steps, muon_lr=4e-4, adamw_lr=4e-4, average_decay=0.98), vae, work)
    stage.run(lambda step: vae_loss(vae, seed, step, num_steps))
    std = fold_spread(vae, seed)
    quality = psnr(vae, draw_frames(seed + 2, 0, 1), 1)
    print(
        f"vae: {quality:.1f} dB on fresh pictures; latent spread was {[round(s, 2) for s in std.tolist()]}", flush=True
    )
    return vae


def polish_decoder(vae: AutoencoderKLTemporalDecoder, work: Path, seed: int, num_steps: int) -> None:
    """Train the decoder further, in place; the latents stay what the denoiser learned, so this may come after it."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    plan = Plan("decoder", num_steps, muon_lr=4e-4, adamw_lr=4e-4, average_decay=0.98)
    Stage(plan, vae, work).run(lambda step: decoder_loss(vae, seed, step))
    print(f"decoder: {psnr(vae, draw_frames(seed + 2, 0, 1), 1):.1f} dB on fresh pictures", flush=True)
