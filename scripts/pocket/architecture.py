"""Shapes of Stable Video Diffusion checkpoints, from tiny to the published ones: every part is a stock class.

Knows sizes and how to put a pipeline together. Knows nothing of training or of data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
PARTS = ("vae", "image_encoder", "unet")


@dataclass(frozen=True)
class Size:
    """Widths and depths of one checkpoint. GroupNorm's 32 groups make channels a multiple of 32."""

    height: int
    width: int
    num_frames: int
    unet_levels: str  # one letter a level, from the top down: A with attention, - without
    unet_channels: tuple[int, ...]  # one a level, as are the heads
    unet_heads: tuple[int, ...]
    vae_channels: tuple[int, ...]  # one a level: the latent is 2 ** (levels - 1) times smaller
    clip: dict[str, Any]  # keyword arguments of CLIPVisionConfig
    context_dim: int  # of the image embedding
    time_dim: int  # of the embedding of each time id
    num_layers: int = 1  # a level, in UNet and VAE
    latent_channels: int = LATENT_CHANNELS
    scaling_factor: float = 1.0  # 1 for ours: training folds the latents' spread into the weights
    sample_size_px: int | None = None  # None is the width
    up_levels: str | None = None  # None is unet_levels from the bottom up

    @property
    def vae_factor(self) -> int:
        """How many times smaller a latent is."""
        return 2 ** (len(self.vae_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(height, width) of a latent."""
        return self.height // self.vae_factor, self.width // self.vae_factor


def _small_clip(channels: int, num_layers: int = 1) -> dict[str, Any]:
    sizes = {"hidden_size": channels, "intermediate_size": 2 * channels, "patch_size": 16}
    return {**sizes, "num_hidden_layers": num_layers, "num_attention_heads": 2}


# ViT-H/14 of OpenCLIP, as the published checkpoints have it
_VIT_H = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "patch_size": 14,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}

SIZES = {
    "tiny": Size(32, 32, 3, "-A", (32, 32), (1, 1), (32, 32), _small_clip(32), 32, 32, up_levels="--"),
    "pocket": Size(64, 96, 8, "-A", (64, 96), (2, 3), (96, 64, 96), _small_clip(32), 32, 32, up_levels="--"),
    # The published architecture at a fifth of its widths.
    "medium": Size(
        height=192,
        width=256,
        num_frames=14,
        unet_levels="AAA-",
        unet_channels=(64, 128, 256, 256),
        unet_heads=(2, 4, 8, 8),
        vae_channels=(32, 64, 128, 128),
        clip=_small_clip(128, num_layers=2),
        context_dim=128,
        time_dim=64,
        num_layers=2,
        latent_channels=4,
        scaling_factor=0.18215,
    ),
    # SVD-XT to the parameter.
    # Source: the config.json files of https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt
    "full": Size(
        height=576,
        width=1024,
        num_frames=25,
        unet_levels="AAA-",
        unet_channels=(320, 640, 1280, 1280),
        unet_heads=(5, 10, 20, 20),
        vae_channels=(128, 256, 512, 512),
        clip=_VIT_H,
        context_dim=1024,
        time_dim=256,
        num_layers=2,
        latent_channels=4,
        scaling_factor=0.18215,
        sample_size_px=768,
    ),
}


def build_unet(size: Size, num_frames: int | None = None) -> UNetSpatioTemporalConditionModel:
    """The denoiser."""
    down = {"A": "CrossAttnDownBlockSpatioTemporal", "-": "DownBlockSpatioTemporal"}
    up = {"A": "CrossAttnUpBlockSpatioTemporal", "-": "UpBlockSpatioTemporal"}
    return UNetSpatioTemporalConditionModel(
        sample_size=(size.sample_size_px or size.width) // size.vae_factor,
        in_channels=2 * size.latent_channels,
        out_channels=size.latent_channels,
        down_block_types=tuple(down[level] for level in size.unet_levels),
        up_block_types=tuple(up[level] for level in size.up_levels or size.unet_levels[::-1]),
        block_out_channels=size.unet_channels,
        addition_time_embed_dim=size.time_dim,
        projection_class_embeddings_input_dim=NUM_TIME_IDS * size.time_dim,
        layers_per_block=size.num_layers,
        cross_attention_dim=size.context_dim,
        num_attention_heads=size.unet_heads,
        num_frames=num_frames or size.num_frames,
    )


def build_vae(size: Size) -> AutoencoderKLTemporalDecoder:
    """The autoencoder."""
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(size.vae_channels),
        block_out_channels=size.vae_channels,
        layers_per_block=size.num_layers,
        latent_channels=size.latent_channels,
        sample_size=size.sample_size_px or size.width,
        scaling_factor=size.scaling_factor,
        force_upcast=True,
    )


def build_image_encoder(size: Size) -> CLIPVisionModelWithProjection:
    """The CLIP image encoder."""
    config = CLIPVisionConfig(image_size=CLIP_IMAGE_SIZE_PX, projection_dim=size.context_dim, **size.clip)
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


def _assemble(size: Size, num_frames: int | None, device: str = "cpu") -> StableVideoDiffusionPipeline:
    with torch.device(device):
        vae, image_encoder, unet = build_vae(size), build_image_encoder(size), build_unet(size, num_frames)
    return StableVideoDiffusionPipeline(
        vae=vae.to(device).eval(),  # to(): blocks make their mix factors on the CPU whatever the default is
        image_encoder=image_encoder.to(device).eval(),
        unet=unet.to(device).eval(),
        scheduler=build_scheduler(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": CLIP_IMAGE_SIZE_PX},
            crop_size={"height": CLIP_IMAGE_SIZE_PX, "width": CLIP_IMAGE_SIZE_PX},
        ),
    )


def build_pipeline(size: Size, seed: int, num_frames: int | None = None) -> StableVideoDiffusionPipeline:
    """A stock pipeline with random float32 weights: the same seed gives the same weights."""
    torch.manual_seed(seed)
    return _assemble(size, num_frames)


def build_shapes(size: Size, num_frames: int | None = None) -> StableVideoDiffusionPipeline:
    """A stock pipeline without weights: every parameter is on the meta device."""
    return _assemble(size, num_frames, "meta")


def count_parameters(pipeline: StableVideoDiffusionPipeline) -> dict[str, int]:
    """The number of parameters of each part."""
    return {name: sum(p.numel() for p in getattr(pipeline, name).parameters()) for name in PARTS}


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
    """Write a checkpoint of random fp16 weights to a folder. `name` is a key of SIZES."""
    if name == "full":
        _save_part_by_part(build_shapes(SIZES[name], num_frames), seed, folder)
    else:
        save_pipeline(build_pipeline(SIZES[name], seed, num_frames), folder)


def _save_part_by_part(pipeline: StableVideoDiffusionPipeline, seed: int, folder: Path) -> None:
    """Fill and write one part at a time, in fp16 from the start: memory holds the largest part alone, once.

    Plain normal weights: PyTorch's own initialisation of each layer would take minutes and float32.
    """
    generator = torch.Generator().manual_seed(seed)
    pipeline.save_config(folder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.feature_extractor.save_pretrained(folder / "feature_extractor")
    for part_name in PARTS:
        part = getattr(pipeline, part_name).to(torch.float16).to_empty(device="cpu")
        with torch.no_grad():
            for name, parameter in part.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif name.endswith("weight") and parameter.ndim == 1:  # of a norm
                    parameter.fill_(1)
                else:
                    parameter.normal_(0, 0.02, generator=generator)
        part.save_pretrained(folder / part_name, safe_serialization=True, variant="fp16")
        part.to("meta")  # frees its memory
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
