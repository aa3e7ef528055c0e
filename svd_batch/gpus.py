"""What named GPUs hold and compute, from their makers' data sheets, and how much of it a video gets. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    name: str
    memory_gib: int
    peak_tflops: float
    """Dense float16 or bfloat16 products with float32 sums, on tensor cores, in 10**12 FLOP/s."""
    source: str


GPUS = (
    Gpu("L4", 24, 121.0, "https://www.nvidia.com/en-us/data-center/l4/"),  # 242 with sparsity
    Gpu(
        "RTX4090", 24, 165.2, "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
    ),
    Gpu("A100", 80, 312.0, "https://www.nvidia.com/en-us/data-center/a100/"),  # 624 with sparsity
    Gpu("H100", 80, 989.4, "https://www.nvidia.com/en-us/data-center/h100/"),  # SXM; 1979 with sparsity
)

CONTEXT_BYTES = 600 * 2**20
"""What CUDA itself takes of a GPU's memory before anything is allocated."""

EFFICIENCY = 0.25
"""Share of the peak that a video gets, assumed for every GPU.

Measured with `speed=exact`: 24 % on an H100 SXM (stock diffusers 22 %), 27 % on an H200, 33 % there once compiled
(docs/log.md, 2026-11-26 and -27); on no other.

Stability AI published 32.2 s for 25 frames and 25 steps of SVD-XT 1.1 with TensorRT on an A100 SXM and 22.6 s on an
H100 PCIe (peak 756): by our count of 4.17 PFLOP that is 42 % and 24 %. Diffusers without a compiler gets less.
Source: https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt-1-1-tensorrt
"""


def video_seconds(num_flops: float, gpu: Gpu) -> float:
    """Return the estimated seconds of a video of so many FLOPs."""
    return num_flops / (1e12 * gpu.peak_tflops * EFFICIENCY)
