"""The first process of a job on a cluster: can svd_batch run in this Python? `python -m svd_batch.submit.preflight`.

It runs in whatever Python the cluster has, so it keeps to what Python 3.8 understands, and imports nothing of ours.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

LEAST_PYTHON = (3, 11)
NEEDED = (
    "ray",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "pyarrow",
    "hydra",
    "imageio_ffmpeg",
    "fsspec",
    "cv2",
    "PIL",
    "tqdm",
)
"""Modules without which a job fails; found, not imported, so this takes a moment."""


def problem(version: tuple[int, ...] = sys.version_info[:2], needed: tuple[str, ...] = NEEDED) -> str | None:
    """Return one sentence on why svd_batch can't run here, or None."""
    if version < LEAST_PYTHON:
        have, want = (".".join(map(str, v)) for v in (version, LEAST_PYTHON))
        return f"the cluster's Python is {have} and svd_batch needs {want} or newer; use another image"
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        return (
            f"the cluster's Python lacks {', '.join(missing)}; give cluster.install=true, or use an image that has "
            "them, as docker/Dockerfile makes"
        )
    return None


if __name__ == "__main__":
    sentence = problem()
    if sentence:
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
