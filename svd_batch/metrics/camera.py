"""What of an optical flow the camera did: one affine movement of the whole frame, and the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GRID = 32
"""Points of the flow along the shorter side, at least, that the camera's part is fitted to."""
ROUNDS = 15


def camera_and_rest(flows: NDArray[np.float32], units: NDArray[np.float32]) -> tuple[float, float]:
    """Return the mean lengths of the affine part of flows (S, h, w, 2) and of what is left, at points of a grid.

    The sum of absolute residuals is made least by weighing squares anew, which needs no chance, unlike RANSAC. `units`
    scales x and y.
    """
    every = max(1, min(flows.shape[1:3]) // GRID)
    seen = (flows[:, ::every, ::every] * units).astype(np.float64)  # (S, rows, columns, 2)
    y, x = np.meshgrid(np.linspace(-1, 1, seen.shape[1]), np.linspace(-1, 1, seen.shape[2]), indexing="ij")
    basis = np.stack([np.ones(x.size), x.ravel(), y.ravel()], axis=1)  # (N, 3)
    seen = seen.reshape(len(seen), -1, 2)
    weights = np.ones(seen.shape[:2])
    fitted = seen
    for _ in range(ROUNDS):
        weighted = np.swapaxes(weights[..., None] * basis, 1, 2)  # (S, 3, N)
        normal = weighted @ basis + 1e-9 * np.eye(3)
        fitted = basis @ np.linalg.solve(normal, weighted @ seen)
        weights = 1 / np.maximum(np.linalg.norm(seen - fitted, axis=-1), 1e-3)
    camera, rest = (float(np.linalg.norm(part, axis=-1).mean()) for part in (fitted, seen - fitted))
    return camera, rest
