"""Training of the denoiser: clips as cached latents, EDM preconditioning, v-prediction, SVD's conditioning.

The image encoder is random and fixed: its embedding tells "an image is given" from "none" and little more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from PIL import Image

from pocket.architecture import SIZES
from pocket.data import make_clip
from pocket.stage import Plan, Stage, generator_for
from pocket.vae import frames_to_tensor

SIZE = SIZES["pocket"]
BATCH_SIZE = 4
DROPOUT = 0.12
ENCODE_BATCH = 16  # clips


@dataclass(frozen=True)
class ClipCache:
    """Encoded clips; N is the number of clips."""

    latents: torch.Tensor  # (N, T, C, h, w) float16
    first_frames: torch.Tensor  # (N, H, W, 3) uint8
    embeddings: torch.Tensor  # (N, 1, D) float32
    motion: torch.Tensor  # (N, 2) float32: fps - 1 and motion_bucket_id, as the pipeline feeds them


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told about B clips."""

    image_latents: torch.Tensor  # (B, C, h, w)
    embeddings: torch.Tensor  # (B, 1, D)
    time_ids: torch.Tensor  # (B, 3)


@torch.no_grad()
def _encode_clips(pipeline: StableVideoDiffusionPipeline, rng: np.random.Generator) -> ClipCache:
    """ENCODE_BATCH fresh clips as the stock pipeline would encode them."""
    clips = [make_clip(rng, (SIZE.height, SIZE.width), SIZE.num_frames) for _ in range(ENCODE_BATCH)]
    with torch.autocast("cpu", torch.bfloat16):
        frames = torch.cat([frames_to_tensor(clip.frames) for clip in clips])
        latents = pipeline.vae.encode(frames).latent_dist.mode()
    images = [Image.fromarray(clip.frames[0]) for clip in clips]
    return ClipCache(
        latents=latents.unflatten(0, (ENCODE_BATCH, SIZE.num_frames)).half(),
        first_frames=torch.from_numpy(np.stack([clip.frames[0] for clip in clips])),
        embeddings=pipeline._encode_image(images, "cpu", 1, False),
        motion=torch.tensor([(clip.fps - 1, clip.motion_bucket_id) for clip in clips], dtype=torch.float32),
    )


def build_cache(pipeline: StableVideoDiffusionPipeline, work: Path, seed: int, num_clips: int) -> ClipCache:
    """At least num_clips encoded clips, from the work folder if as many are there already."""
    path = work / "clips.pt"
    if path.exists() and len((cache := ClipCache(**torch.load(path, weights_only=True))).latents) >= num_clips:
        return cache
    started_at, parts = time.monotonic(), []
    for batch in range(-(-num_clips // ENCODE_BATCH)):
        parts.append(_encode_clips(pipeline, np.random.default_rng((seed, 2, batch))))
        if batch % 20 == 19:
            print(f"clips {len(parts) * ENCODE_BATCH}/{num_clips}  {time.monotonic() - started_at:.0f} s", flush=True)
    fields = {name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    partial = path.with_suffix(".partial")
    torch.save(fields, partial)
    partial.replace(path)
    return ClipCache(**fields)


def draw_sigmas(count: int, generator: torch.Generator) -> torch.Tensor:
    """Noise levels (B,): three quarters log-normal where pictures form, one quarter log-uniform up to 700."""
    normal = torch.exp(1.0 + 1.6 * torch.randn(count, generator=generator))
    low, high = np.log(0.5), np.log(700.0)
    uniform = torch.exp(low + (high - low) * torch.rand(count, generator=generator))
    return torch.where(torch.rand(count, generator=generator) < 0.75, normal, uniform).clamp(0.002, 700.0)


def draw_noise_aug_strengths(count: int, generator: torch.Generator) -> torch.Tensor:
    """Noise on the input image (B,): none, about 0.02, or anything up to 1."""
    small = torch.exp(np.log(0.02) + 0.5 * torch.randn(count, generator=generator))
    wide = torch.exp(np.log(0.02) * torch.rand(count, generator=generator))
    kind = torch.rand(count, generator=generator)
    return torch.where(kind < 0.1, torch.zeros(count), torch.where(kind < 0.5, small, wide)).clamp(max=1.0)


def _condition(
    pipeline: StableVideoDiffusionPipeline, cache: ClipCache, chosen: torch.Tensor, generator: torch.Generator
) -> Conditioning:
    """The conditioning of the chosen clips, with part of it dropped as the pipeline's negative half drops it."""
    strength = draw_noise_aug_strengths(len(chosen), generator)
    images = frames_to_tensor(cache.first_frames[chosen].numpy())
    noise = torch.randn(images.shape, generator=generator)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        image_latents = pipeline.vae.encode(images + strength[:, None, None, None] * noise).latent_dist.mode().float()
    kept = (torch.rand(len(chosen), generator=generator) >= DROPOUT).float()
    return Conditioning(
        image_latents=image_latents * kept[:, None, None, None],
        embeddings=cache.embeddings[chosen] * kept[:, None, None],
        time_ids=torch.cat([cache.motion[chosen], strength[:, None]], dim=1),
    )


def velocity_loss(
    unet: UNetSpatioTemporalConditionModel, clean: torch.Tensor, condition: Conditioning, generator: torch.Generator
) -> torch.Tensor:
    """Mean squared error on v for clean latents (B, T, C, h, w).

    Source: EulerDiscreteScheduler.step with v_prediction, which is EDM's preconditioning with sigma_data = 1:
    x0 = x / (sigma² + 1) - v sigma / sqrt(sigma² + 1), the input scaled by 1 / sqrt(sigma² + 1).
    """
    sigmas = draw_sigmas(len(clean), generator)
    sigma = sigmas[:, None, None, None, None]
    noised = clean + sigma * torch.randn(clean.shape, generator=generator)
    root = (sigma.square() + 1).sqrt()
    target = (noised / root.square() - clean) * root / sigma
    image_latents = condition.image_latents.unsqueeze(1).expand(-1, clean.shape[1], -1, -1, -1)
    with torch.autocast("cpu", torch.bfloat16):
        output = unet(
            torch.cat([noised / root, image_latents], dim=2),
            0.25 * sigmas.log(),
            encoder_hidden_states=condition.embeddings,
            added_time_ids=condition.time_ids,
        ).sample
    return (output.float() - target).square().mean()


def train_unet(pipeline: StableVideoDiffusionPipeline, cache: ClipCache, work: Path, seed: int, num_steps: int) -> None:
    """Train the pipeline's denoiser in place. Reads and writes snapshots in the work folder."""
    unet = pipeline.unet
    torch.nn.init.zeros_(unet.conv_out.weight)

    def loss_of_step(step: int) -> torch.Tensor:
        generator = generator_for(seed + 1, step)
        chosen = torch.randint(len(cache.latents), (BATCH_SIZE,), generator=generator)
        condition = _condition(pipeline, cache, chosen, generator)
        return velocity_loss(unet, cache.latents[chosen].float(), condition, generator)

    plan = Plan("unet", num_steps, muon_lr=1e-3, adamw_lr=1e-3, average_decay=0.998)
    Stage(plan, unet, work).run(loss_of_step)
