"""Whether a checkpoint's weights are the ones that its configs describe, from the files' headers, before any is read.

diffusers and transformers fill what a file lacks with random numbers and go on; a swapped file would make noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from svd_batch.checkpoint import read_headers
from svd_batch.checkpoint_files import CONFIGS, read_json
from svd_batch.errors import UserError
from svd_batch.images import one_line


def check_weights(folder: Path, variant: str | None) -> None:
    """Raise UserError naming the first weight that a part needs and its files lack, or have in another shape."""
    for part, shapes in _needed(folder):
        found = read_headers(folder, part, variant)
        for name, shape in shapes.items():
            if name not in found:
                raise UserError(_sentence(folder / part, f"{name} is missing"))
            if found[name].shape != shape:
                is_, should = (" x ".join(map(str, s)) for s in (found[name].shape, shape))
                raise UserError(_sentence(folder / part, f"{name} is {is_} and should be {should}"))


def _sentence(where: Path, what: str) -> str:
    return f"model.id: the weights in {where} don't fit its config.json: {what}; the files are of different checkpoints"


def _needed(folder: Path) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Yield each part with the name and shape of every weight that its config asks for; nothing is allocated."""
    for part, name in CONFIGS.items():
        if part not in _BUILD:
            continue
        try:
            with torch.device("meta"):
                module: torch.nn.Module = _BUILD[part](read_json(folder, name))
        except UserError:
            raise
        except Exception as error:  # whatever a wrong value does in the constructors of two libraries
            raise UserError(f"model.id: no {part} can be built from {folder / name}: {one_line(error)}") from error
        yield part, {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def _image_encoder(config: dict[str, Any]) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(config))


_BUILD: dict[str, Any] = {
    "unet": UNetSpatioTemporalConditionModel.from_config,
    "vae": AutoencoderKLTemporalDecoder.from_config,
    "image_encoder": _image_encoder,
}
