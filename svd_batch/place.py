"""How many actors a node of a cluster holds, and what each has of it. Standard library alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """What an actor asks of a node, and how many there are in all: each settles on its own node what its share is."""

    num_gpus: float = 0.0
    num_cpus: float = 1.0
    num_actors: int = 1

    def by_gpus(self, node: Mapping[str, float]) -> int:
        """Return how many actors a node's GPUs hold; a part of a GPU is never made of two."""
        gpus = node.get("GPU", 0.0)
        if 0 < self.num_gpus < 1:
            return math.floor(gpus) * math.floor(1 / self.num_gpus + 1e-9)
        return math.floor(gpus / self.num_gpus) if self.num_gpus else 0

    def actors(self, node: Mapping[str, float]) -> int:
        """Return how many actors a node holds."""
        by_cpus = math.floor(node.get("CPU", 0.0) / self.num_cpus + 1e-9)
        return min(by_cpus, self.by_gpus(node)) if self.num_gpus else by_cpus

    def share(self, node: Mapping[str, float], num_nodes: int, num_cores: int) -> tuple[int, float]:
        """Return an actor's CPU threads on this node, and its share of a GPU's memory or else of the node's.

        Ray itself would give each actor a single thread (OMP_NUM_THREADS=1).
        """
        here = self.actors(node) if self.num_gpus else math.ceil(self.num_actors / num_nodes)
        here = max(1, min(here, self.num_actors))
        return max(1, num_cores // here), min(1.0, self.num_gpus) if self.num_gpus else 1 / here
