"""What it costs that threads spin while they wait for work: a UNet step on all cores, alone and beside a busy process.

    .venv/bin/python benchmarks/waiting_threads.py

Each policy of OpenMP gets a process of its own, since it is read once. Medians of a stock UNet step of pocket.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = 12
DEFAULT = "default"
BUSY = "while True: pass"


def step_seconds() -> float:
    """Return the median seconds of a UNet step with guidance at pocket's own size."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import torch
    from pocket.architecture import load_pipeline

    unet = load_pipeline(ROOT / "svd_batch" / "assets" / "pocket").unet
    latents, context = torch.randn(2, 8, 16, 16, 24), torch.randn(2, 1, 32)
    time_ids = torch.tensor([[6.0, 127.0, 0.02]] * 2)
    taken = []
    with torch.inference_mode():
        for _ in range(STEPS):
            start = time.perf_counter()
            unet(latents, torch.tensor(1.0), context, time_ids)
            taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])


def measured(policy: str, *, beside_another: bool) -> float:
    """Return `step_seconds` of a process with a policy."""
    busy = subprocess.Popen([sys.executable, "-c", BUSY]) if beside_another else None
    try:
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        if policy != DEFAULT:
            environment["OMP_WAIT_POLICY"] = policy
        command = [sys.executable, __file__, "step"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])
    finally:
        if busy:
            busy.kill()


def main() -> None:
    """Print the seconds of a step for each policy, twice in turn."""
    if sys.argv[1:] == ["step"]:
        print(step_seconds())
        return
    for _ in range(2):
        for policy in (DEFAULT, "active", "passive"):
            alone, beside = (measured(policy, beside_another=busy) for busy in (False, True))
            print(f"{policy}: a step takes {alone:.3f} s alone, {beside:.3f} s beside a busy process", flush=True)


if __name__ == "__main__":
    main()
