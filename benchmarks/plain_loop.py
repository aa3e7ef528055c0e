"""The loop that a user of stock diffusers would write: every picture, every cell, one call each, one mp4 each.

Uses nothing of svd_batch but the bundled files; `main_job.py` times it.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image, ImageOps


def main() -> None:
    """Make the videos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--buckets", type=int, nargs="+", required=True)
    parser.add_argument("--noises", type=float, nargs="+", required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)
    pipe = StableVideoDiffusionPipeline.from_pretrained(
        arguments.checkpoint, torch_dtype=torch.float32, variant="fp16", use_safetensors=True
    )
    pipe.set_progress_bar_config(disable=True)
    for path in sorted(arguments.pictures.glob("*.jpg")):
        image = ImageOps.fit(Image.open(path).convert("RGB"), (96, 64), Image.Resampling.LANCZOS)
        for bucket, noise in itertools.product(arguments.buckets, arguments.noises):
            frames = pipe(
                image,
                height=64,
                width=96,
                num_frames=8,
                num_inference_steps=25,
                max_guidance_scale=1.5,
                motion_bucket_id=bucket,
                noise_aug_strength=noise,
                decode_chunk_size=8,
                generator=torch.manual_seed(42),
            ).frames[0]
            write(arguments.output / f"{path.stem}-{bucket}-{noise}.mp4", frames)


def write(path: Path, frames: list[Image.Image]) -> None:
    """Write one mp4 with the settings that svd_batch uses."""
    colour = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    scale = ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int"]
    output = ["-crf", "18", "-preset", "medium", *scale, *colour, "-movflags", "+faststart", "-threads", "1"]
    writer = imageio_ffmpeg.write_frames(
        str(path), frames[0].size, fps=7, codec="libx264", quality=None, macro_block_size=1, output_params=output
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.asarray(frame))
    writer.close()


if __name__ == "__main__":
    main()
