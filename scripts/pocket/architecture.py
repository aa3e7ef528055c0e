"""Shapes of small Stable Video Diffusion checkpoints: every part is a stock diffusers or transformers class.

Knows sizes and how to put a pipeline together. Knows nothing of training or of data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

CLIP_IMAGE_SIZE_PX = 224  # the pipeline resizes to this whatever the encoder says
LATENT_CHANNELS = 8  # four leave fine texture out: 0.4 SSIM on bricks
NUM_TIME_IDS = 3  # fps - 1, motion_bucket_id, noise_aug_strength


@dataclass(frozen=True)
class Size:
    """Widths and clip shape of one small checkpoint. GroupNorm's 32 groups make channels a multiple of 32."""

    height: int
    width: int
    num_frames: int
    unet_channels: tuple[int, int]
    unet_heads: tuple[int, int]
    vae_channels: tuple[int, ...]  # one a level: the latent is 2 ** (levels - 1) times smaller
    clip_channels: int
    embed_dim: int  # of the image embedding and of each time id

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(height, width) of a latent."""
        factor = 2 ** (len(self.vae_channels) - 1)
        return self.height // factor, self.width // factor


SIZES = {
    "pocket": Size(64, 96, 8, (64, 96), (2, 3), (96, 64, 96), 32, 32),
    "tiny": Size(32, 32, 3, (32, 32), (1, 1), (32, 32), 32, 32),
}


def build_unet(size: Size, num_frames: int | None = None) -> UNetSpatioTemporalConditionModel:
    """The denoiser: two levels, attention at the lower one alone."""
    return UNetSpatioTemporalConditionModel(
        sample_size=size.latent_shape[1],
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        block_out_channels=size.unet_channels,
        addition_time_embed_dim=size.embed_dim,
        projection_class_embeddings_input_dim=NUM_TIME_IDS * size.embed_dim,
        layers_per_block=1,
        cross_attention_dim=size.embed_dim,
        num_attention_heads=size.unet_heads,
        num_frames=num_frames or size.num_frames,
    )


def build_vae(size: Size) -> AutoencoderKLTemporalDecoder:
    """The autoencoder. scaling_factor is 1: training folds the latents' spread into the weights."""
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(size.vae_channels),
        block_out_channels=size.vae_channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=size.width,
        scaling_factor=1.0,
        force_upcast=True,
    )


def build_image_encoder(size: Size) -> CLIPVisionModelWithProjection:
    """The CLIP image encoder: one layer over 14 x 14 patches."""
    config = CLIPVisionConfig(
        hidden_size=size.clip_channels,
        intermediate_size=2 * size.clip_channels,
        projection_dim=size.embed_dim,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=CLIP_IMAGE_SIZE_PX,
        patch_size=16,
    )
    return CLIPVisionModelWithProjection(config)


def build_scheduler() -> EulerDiscreteScheduler:
    """The scheduler, configured as the published checkpoints have it.

    Source: https://huggingface.co/stabilityai/stable-video-diffusion-img2vid/blob/main/scheduler/scheduler_config.json
    """
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        interpolation_type="linear",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
        rescale_betas_zero_snr=False,
    )


def build_pipeline(size: Size, seed: int, num_frames: int | None = None) -> StableVideoDiffusionPipeline:
    """A stock pipeline with random float32 weights: the same seed gives the same weights."""
    torch.manual_seed(seed)
    return StableVideoDiffusionPipeline(
        vae=build_vae(size).eval(),
        image_encoder=build_image_encoder(size).eval(),
        unet=build_unet(size, num_frames).eval(),
        scheduler=build_scheduler(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": CLIP_IMAGE_SIZE_PX},
            crop_size={"height": CLIP_IMAGE_SIZE_PX, "width": CLIP_IMAGE_SIZE_PX},
        ),
    )


def save_pipeline(pipeline: StableVideoDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline as fp16 safetensors with the file names of `variant="fp16"`. The pipeline becomes fp16."""
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True, variant="fp16")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes files that only their owner can read


def load_pipeline(folder: Path) -> StableVideoDiffusionPipeline:
    """The checkpoint in a folder, as float32 on the CPU and without progress bars."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(
        folder, variant="fp16", torch_dtype=torch.float32, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_random_checkpoint(folder: Path, name: str, seed: int = 0, num_frames: int | None = None) -> None:
    """Write a checkpoint of random weights to a folder. `name` is a key of SIZES."""
    save_pipeline(build_pipeline(SIZES[name], seed, num_frames), folder)
