"""What this machine computes on, and which settings it can't do. Imports torch but not diffusers."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from svd_batch.config import Dtype, MemoryConfig, ModelConfig, Offload
from svd_batch.errors import UserError

_CUBLAS_WORKSPACES = (":4096:8", ":16:8")
"""The two sizes with which cuBLAS sums in the same order every time."""

_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Settings of torch's allocator; the first since torch 2.9."""

_CONTAINER_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""A container's limit and what is used of it: cgroup 2, then cgroup 1."""


def device_type() -> str:
    """Return `cuda` where torch sees a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_machine(model: ModelConfig, memory: MemoryConfig, device_type: str) -> None:
    """Raise UserError for settings that the device can't do."""
    if device_type == "cpu" and model.dtype is Dtype.float16:
        raise UserError(
            "model.dtype: float16 needs a CUDA GPU and this machine shows none; give model.dtype=float32 or bfloat16"
        )
    if device_type == "cpu" and memory.offload is not Offload.none:
        raise UserError(
            f"memory.offload: {memory.offload.value} needs a CUDA GPU and this machine shows none; give none"
        )


def reset_peak_resident_bytes() -> None:
    """Let `peak_resident_bytes` count from now on; where the system can't (macOS), it goes on counting from the start.

    Source: https://docs.kernel.org/filesystems/proc.html (clear_refs, 5)
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident_bytes() -> int:
    """Return the process's highest resident memory since `reset_peak_resident_bytes`.

    Whatever is in memory counts: weights, also where they are a mapped file's pages, libraries, and what other threads
    hold, such as the video that is being written.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that torch held of the GPU since it was last reset; on a CPU `peak_resident_bytes`."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else peak_resident_bytes()


class Laps:
    """Seconds of a call's phases, one after the other; on a GPU each border waits until it has caught up."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._last = self._now()

    def end(self, phase: str) -> None:
        """Count the time since the last border as `phase`."""
        now = self._now()
        self.seconds[phase] = now - self._last
        self._last = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that is free for more: the GPU's, or the machine's within the container's limit.

    None where the system doesn't tell. On a GPU this starts CUDA in this process.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [_machine_bytes(), *(_container_bytes(*files) for files in _CONTAINER_FILES)]
    return min((n for n in known if n is not None), default=None)


def _machine_bytes() -> int | None:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _container_bytes(limit: str, used: str) -> int | None:
    with suppress(OSError, ValueError):  # no such file, or the limit is `max`
        return max(0, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return None


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for its next allocations; where the C library isn't glibc, nothing.

    glibc returns large blocks to the system at once and gets fresh pages, zeroed one by one, for the next: in a
    decoder's large activations half of the time. The process then stays as large as it ever was.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 64 * 2**20)


def grow_gpu_segments() -> None:
    """Let torch's blocks of a GPU's memory grow with what is asked of them, unless the user's variable says otherwise.

    Blocks of fixed sizes fit a decoder's and a UNet's tensors badly in turn: SVD-XT then keeps twice what it uses, and
    a card that has enough memory runs out of it. It has an effect only before the process first uses a GPU.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html (expandable_segments)
    """
    if not any(name in os.environ for name in _ALLOCATOR_VARIABLES):
        is_new = tuple(int(number) for number in torch.__version__.split(".")[:2]) >= (2, 9)
        os.environ[_ALLOCATOR_VARIABLES[0 if is_new else 1]] = "expandable_segments:True"


def make_deterministic() -> None:
    """Make a GPU's results the same at each call, for the whole process; a CPU with fixed threads needs nothing.

    Call it before anything is computed: cuBLAS reads its variable once.

    Raises: UserError when the variable is set to a value that leaves cuBLAS free.
    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html and
    https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    """
    if device_type() != "cuda":
        return
    chosen = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACES[0])
    if chosen not in _CUBLAS_WORKSPACES:
        raise UserError(
            f"reproducible: CUBLAS_WORKSPACE_CONFIG={chosen} leaves cuBLAS free to choose; unset it or give "
            f"{' or '.join(_CUBLAS_WORKSPACES)}"
        )
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True)


def cpu_name() -> str:
    """Return the processor's name as Linux tells it, or `cpu`."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "cpu"
