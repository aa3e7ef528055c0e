"""The whole training: autoencoder, clips, denoiser, checkpoint, figures, card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import StableVideoDiffusionPipeline

from pocket.architecture import SIZES, build_pipeline, save_pipeline
from pocket.evaluate import evaluate, sample_sheet
from pocket.export import draw_curves, write_card, write_sheet
from pocket.unet import build_cache, train_unet
from pocket.vae import polish_decoder, train_vae

PARTS = ("unet", "vae", "image_encoder")


@dataclass(frozen=True)
class Options:
    """What a training run is told."""

    work: Path
    checkpoint: Path
    seed: int = 0
    vae_steps: int = 1600
    decoder_steps: int = 600
    unet_steps: int = 6000
    num_clips: int = 3200


def _train_weights(options: Options) -> StableVideoDiffusionPipeline:
    """A pipeline with the weights that the work folder's snapshots lead to."""
    pipeline = build_pipeline(SIZES["pocket"], options.seed)
    pipeline.register_modules(vae=train_vae(options.work, options.seed, options.vae_steps))
    cache = build_cache(pipeline, options.work, options.seed, options.num_clips)
    train_unet(pipeline, cache, options.work, options.seed, options.unet_steps)
    polish_decoder(pipeline.vae, options.work, options.seed, options.decoder_steps)
    return pipeline


def _training_facts(work: Path) -> dict[str, str]:
    """The steps of each stage and the minutes they took together, as the snapshots have them."""
    stages = {
        name: torch.load(work / f"{name}.pt", weights_only=True, mmap=True) for name in ("vae", "unet", "decoder")
    }
    minutes = sum(stage["elapsed_s"] for stage in stages.values()) / 60
    return {f"{name}_steps": str(stage["step"]) for name, stage in stages.items()} | {
        "minutes": f"{minutes:.0f} minutes"
    }


def train(options: Options, only_export: bool = False) -> None:
    """Train what is left to train, write the checkpoint and, unless only exporting, measure it and write its card.

    Raises: ValueError when there is nothing to export.
    """
    options.work.mkdir(parents=True, exist_ok=True)
    if only_export:
        if not (options.work / "unet.pt").exists():
            raise ValueError(f"work: {options.work} holds no unet.pt; run the verb train first")
        options = replace(options, vae_steps=0, unet_steps=0, decoder_steps=0, num_clips=0)
    pipeline = _train_weights(options)
    parts = {name: getattr(pipeline, name) for name in PARTS}
    counts = {name: (type(part).__name__, sum(p.numel() for p in part.parameters())) for name, part in parts.items()}
    save_pipeline(pipeline, options.checkpoint)
    print(f"{options.checkpoint}: written", flush=True)
    if only_export:
        return
    write_sheet(sample_sheet(options.checkpoint), options.checkpoint / "samples.png")
    draw_curves(options.work, options.checkpoint / "loss.png")
    figures = evaluate(options.checkpoint)
    write_card(options.checkpoint, figures, counts, _training_facts(options.work))
    print("\n".join(figures.lines()))
