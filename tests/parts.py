"""Optional parts of the system that some tests need, and what happens where one is absent."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import pytest

MAY_NOT_SKIP = "SVD_BATCH_TESTS_MAY_NOT_SKIP"


def need(part: str, present: bool) -> None:
    """Skip the test where `part` is absent; fail instead where the environment says that nothing may be skipped."""
    if present:
        return
    if os.environ.get(MAY_NOT_SKIP):
        pytest.fail(f"{part} is absent, and {MAY_NOT_SKIP} is set")
    pytest.skip(f"{part} is absent")


@functools.cache
def has_torchcodec() -> bool:
    """Return whether torchcodec really loads: it needs the system's ffmpeg libraries. Tried in another process."""
    command = [sys.executable, "-c", "from torchcodec.decoders import VideoDecoder"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def offline_datasets() -> Any:
    """Return Hugging Face datasets, told to ask the network nothing.

    Where torchcodec is installed and doesn't load, datasets would fail even for undecoded videos, since it asks only
    whether the package is there; it is then told that it isn't, as on a machine without it.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    import datasets

    datasets.config.HF_DATASETS_OFFLINE = True  # read once at import, which may have been before
    datasets.config.TORCHCODEC_AVAILABLE = has_torchcodec()
    datasets.disable_progress_bars()
    return datasets
