"""CLIP's image embeddings of frames, by the encoder that a checkpoint conditions on; with or without its pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from numpy.typing import NDArray

from svd_batch.config import ModelConfig
from svd_batch.errors import UserError
from svd_batch.images import one_line

INPUT_SIZE = (224, 224)
"""What stock brings every picture to, whatever the encoder's own size."""
AT_ONCE = 8
"""Frames encoded at once: 25 of 576x1024 px in float32 would take 177 MB several times over."""


@torch.no_grad()
def embed(
    encoder: Any,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    pictures: Sequence[NDArray[np.uint8]],
) -> NDArray[np.float32]:
    """Return the embeddings (N, D) of pictures (H, W, 3), within rounding those that stock conditions on.

    `mean` and `std` are those of the feature extractor. Scaled on the encoder's device: stock does it on the CPU, where
    25 large frames take seconds.
    """
    dtype = next(encoder.parameters()).dtype
    centre, width = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    found = []
    for start in range(0, len(pictures), AT_ONCE):
        stacked = torch.from_numpy(np.stack(pictures[start : start + AT_ONCE])).to(device)
        pixels = stacked.permute(0, 3, 1, 2).float().mul_(2 / 255).sub_(1)  # (n, 3, H, W)
        pixels = _resize_with_antialiasing(pixels, INPUT_SIZE)
        pixels = pixels.mul_(0.5 / width).add_((0.5 - centre) / width).to(dtype)
        found.append(encoder(pixels).image_embeds.float().cpu().numpy())
    return np.concatenate(found)


class ImageEncoder:
    """A checkpoint's image encoder by itself, for videos that are there already.

    Raises: UserError when it does not load.
    """

    def __init__(self, folder: Path, model: ModelConfig) -> None:
        from transformers import CLIPVisionModelWithProjection

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = getattr(torch, model.dtype.value) if self.device.type == "cuda" else torch.float32
        try:
            extractor = json.loads((folder / "feature_extractor" / "preprocessor_config.json").read_text("utf-8"))
            self.mean, self.std = extractor["image_mean"], extractor["image_std"]
            self.encoder: Any = CLIPVisionModelWithProjection.from_pretrained(
                folder / "image_encoder",
                variant=model.variant,
                use_safetensors=True,
                local_files_only=True,
            ).to(self.device, dtype)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"model.id: the image encoder of {folder} does not load: {one_line(error)}") from error

    def embed(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of pictures (H, W, 3)."""
        return embed(self.encoder, self.mean, self.std, self.device, pictures)
