"""What a checkpoint's files say, and whether they fit together: JSON configs and safetensors headers, no weights.

A file of another checkpoint would load: diffusers and transformers fill what they don't find with random numbers.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from svd_batch.errors import UserError

INDEX = "model_index.json"
PIPELINE_CLASS = "StableVideoDiffusionPipeline"
CLASSES = {
    "unet": "UNetSpatioTemporalConditionModel",
    "vae": "AutoencoderKLTemporalDecoder",
    "image_encoder": "CLIPVisionModelWithProjection",
}
CONFIGS = {
    **{part: f"{part}/config.json" for part in CLASSES},
    "scheduler": "scheduler/scheduler_config.json",
    "feature_extractor": "feature_extractor/preprocessor_config.json",
}
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# What the classes take where a config leaves a number out.
# Source: diffusers 0.42, unet_spatio_temporal_condition.py and autoencoder_kl_temporal_decoder.py; transformers 5,
# configuration_clip.py
_DEFAULTS: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [320, 640, 1280, 1280],
        "in_channels": 8,
        "out_channels": 4,
        "num_frames": 25,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 768,
        "cross_attention_dim": 1024,
    },
    "vae": {"block_out_channels": [64], "in_channels": 3, "out_channels": 3, "latent_channels": 4},
    "image_encoder": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 32, "projection_dim": 512},
}

Configs = dict[str, dict[str, Any]]


class Tensor(NamedTuple):
    """What a safetensors header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


# --- configs ----------------------------------------------------------------------------------------------------


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a checkpoint's file.

    Raises: UserError where the file is missing, cut short or something else.
    """
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        hint = "give a folder in diffusers' format" if name == INDEX else "the checkpoint is incomplete"
        raise UserError(f"model.id: {folder} has no {name}; {hint}") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"model.id: {folder / name} is truncated or no JSON object; fetch it again")
    return value


def read_configs(folder: Path) -> Configs:
    """Return the configs of all parts, defaults put in, each of a class that Stable Video Diffusion has.

    Raises: UserError naming the file and what is wrong in it.
    """
    index = read_json(folder, INDEX)
    kind = index.get("_class_name")
    if kind is None:
        raise UserError(f"model.id: {folder / INDEX} names no _class_name; it is no pipeline's index")
    if kind != PIPELINE_CLASS:
        raise UserError(f"model.id: {folder} holds a {kind}; give a {PIPELINE_CLASS}")
    configs: Configs = {}
    for part, name in CONFIGS.items():
        entry = index.get(part)
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(word, str) for word in entry):
            raise UserError(f"model.id: {folder / INDEX} lists no {part}; the checkpoint is incomplete")
        config = read_json(folder, name)
        expected = CLASSES.get(part, entry[1])
        for where, found in ((INDEX, entry[1]), (name, _class_of(config))):
            if part != "feature_extractor" and found not in (expected, None):
                raise UserError(f"model.id: {folder / where} has a {found} as {part}; it must be a {expected}")
        if part in CLASSES:
            config = {**_DEFAULTS[part], **config}
            for key in _DEFAULTS[part]:
                _check_number(folder / name, key, config[key])
        configs[part] = config
    return configs


def _class_of(config: Mapping[str, Any]) -> Any:
    """Return the class that a config says it is of: diffusers and transformers each have their own key."""
    architectures = config.get("architectures")
    return config.get("_class_name") or (
        architectures[0] if isinstance(architectures, list) and architectures else None
    )


def _check_number(file: Path, key: str, value: Any) -> None:
    is_list = key == "block_out_channels" or (key == "cross_attention_dim" and isinstance(value, list))
    values = (value if isinstance(value, list) else []) if is_list else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
        raise UserError(f"model.id: {file} says {key}={value!r}; that is no Stable Video Diffusion checkpoint")


def check_parts_fit(folder: Path, configs: Configs) -> None:
    """Raise UserError where the configs of the parts contradict each other."""
    predicted = configs["scheduler"].get("prediction_type")
    if predicted != "v_prediction":  # another scheduler would take the UNet's answer for something else, and go on
        raise UserError(
            f"model.id: {folder / CONFIGS['scheduler']} says prediction_type={predicted!r}; Stable Video Diffusion's "
            "UNet needs v_prediction"
        )
    unet, vae, encoder = configs["unet"], configs["vae"], configs["image_encoder"]
    context = unet["cross_attention_dim"]
    contexts = set(context) if isinstance(context, list) else {context}
    fits = [
        ("in_channels", unet["in_channels"], 2 * vae["latent_channels"], "twice the VAE's latent_channels"),
        ("out_channels", unet["out_channels"], vae["latent_channels"], "the VAE's latent_channels"),
        ("cross_attention_dim", max(contexts), encoder["projection_dim"], "the image encoder's projection_dim"),
        (
            "projection_class_embeddings_input_dim",
            unet["projection_class_embeddings_input_dim"],
            3 * unet["addition_time_embed_dim"],
            "three times addition_time_embed_dim: fps, motion bucket and noise strength",
        ),
    ]
    for key, found, expected, what in fits:
        if found != expected:
            raise UserError(
                f"model.id: {folder / CONFIGS['unet']} says {key}={found}, and {what} makes {expected}; "
                "this is no Stable Video Diffusion checkpoint, or parts of two are mixed"
            )


# --- weight files -----------------------------------------------------------------------------------------------


def read_header(file: Path) -> dict[str, Tensor]:
    """Return what a safetensors file's header says of each tensor.

    Raises: UserError when the file is shorter or longer than that, or holds other numbers than floats.
    """
    size = file.stat().st_size
    tensors: dict[str, Tensor] = {}
    end = 0
    try:
        with file.open("rb") as stream:
            (header_size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(header_size)) if header_size < size else {}
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            tensors[name] = Tensor(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
            start, stop = entry["data_offsets"]
            if start != end or stop - start != _num_bytes(tensors[name], stop - start):
                raise ValueError
            end = stop
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        tensors = {}
    if not tensors or size != 8 + header_size + end:
        raise UserError(f"model.id: {file} is truncated or no safetensors file; fetch it again")
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPE_BYTES and not name.endswith("position_ids"):
            known = ", ".join(_DTYPE_BYTES)
            raise UserError(f"model.id: {file} holds {name} as {tensor.dtype}; give weights in one of {known}")
    return tensors


def _num_bytes(tensor: Tensor, otherwise: int) -> int:
    """Return the bytes of a tensor, or `otherwise` for a kind of number that is told of elsewhere."""
    width = _DTYPE_BYTES.get(tensor.dtype)
    return otherwise if width is None else width * math.prod(tensor.shape)


def check_fits_config(part: str, where: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Raise UserError where the weights of a part are not of the size that its config says.

    A few telling tensors, since nothing here may import torch; `engine.weights` compares them all.
    """
    expected = dict(_telling(part, config))
    for name, shape in expected.items():
        found = tensors.get(name)
        fits = found is not None and len(found.shape) == len(shape)
        if found is None or not fits or any(side not in (0, s) for s, side in zip(found.shape, shape, strict=True)):
            says = " x ".join(map(str, found.shape)) if found else "missing"
            wants = " x ".join(str(side) if side else "any" for side in shape)
            raise UserError(
                f"model.id: the weights in {where} don't fit its config.json: {name} is {says} and should be {wants}; "
                "the files are of different checkpoints"
            )


def _telling(part: str, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes that tell one checkpoint from another; a side of 0 may be any."""
    channels = config.get("block_out_channels") or [0]
    first, last, deepest = channels[0], channels[-1], len(channels) - 1
    if part == "unet":
        yield "conv_in.weight", (first, config["in_channels"], 3, 3)
        yield "conv_out.weight", (config["out_channels"], first, 3, 3)
        yield "add_embedding.linear_1.weight", (4 * first, config["projection_class_embeddings_input_dim"])
        yield f"down_blocks.{deepest}.resnets.0.spatial_res_block.conv2.weight", (last, last, 3, 3)
        yield (
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight",
            (last, _last(config["cross_attention_dim"])),
        )
    elif part == "vae":
        latent = config["latent_channels"]
        yield "encoder.conv_in.weight", (first, config["in_channels"], 3, 3)
        yield f"encoder.down_blocks.{deepest}.resnets.0.conv2.weight", (last, last, 3, 3)
        yield "encoder.conv_out.weight", (2 * latent, last, 3, 3)
        yield "decoder.conv_in.weight", (last, latent, 3, 3)
        yield "decoder.time_conv_out.weight", (config["out_channels"], config["out_channels"], 3, 1, 1)
    else:
        width = config["hidden_size"]
        patch = config["patch_size"]
        yield "vision_model.embeddings.patch_embedding.weight", (width, 3, patch, patch)
        yield f"vision_model.encoder.layers.{config['num_hidden_layers'] - 1}.layer_norm1.weight", (width,)
        yield "visual_projection.weight", (config["projection_dim"], width)


def _last(value: Any) -> int:
    return int(value[-1] if isinstance(value, list) else value)
