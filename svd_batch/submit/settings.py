"""The settings of the verb `submit`: one class for each kind of cluster, chosen by `cluster=NAME`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from svd_batch.errors import UserError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|(^|_)(API_?)?KEY($|_)", re.IGNORECASE)


class ClusterKind(Enum):
    """What a job is handed to."""

    ray = "ray"
    kuberay = "kuberay"
    slurm = "slurm"


class JobVerb(Enum):
    """The verbs that can be submitted."""

    run = "run"
    refine = "refine"


@dataclass
class ClusterConfig:
    """For the verb `submit`: where the job goes. `cluster=ray`, `cluster=kuberay` or `cluster=slurm`."""

    kind: ClusterKind | None = None
    """ray, kuberay or slurm."""
    verb: JobVerb = JobVerb.run
    """What the cluster runs: run or refine."""
    env: Any = None
    """Environment variables of the job, {NAME: VALUE}; no secrets, since they are shown and kept."""
    env_from: Any = None
    """Names of variables whose values are secret, [HF_TOKEN]: handed over without being shown or written down."""

    def __post_init__(self) -> None:
        self.env = _variables(self.env)
        self.env_from = _names(self.env_from)
        if both := set(self.env) & set(self.env_from):
            raise UserError(f"cluster.env_from: {sorted(both)[0]} is in cluster.env as well; give it in one of them")


@dataclass
class RayCluster(ClusterConfig):
    """`cluster=ray`: Ray's job submission API, at a cluster that runs already."""

    address: str = "http://127.0.0.1:8265"
    """Where the cluster's job server (its dashboard) listens: http://HOST:PORT or https://HOST:PORT."""


@dataclass
class KubeRayCluster(ClusterConfig):
    """`cluster=kuberay`: a RayJob manifest for the KubeRay operator of a Kubernetes cluster."""


@dataclass
class SlurmCluster(ClusterConfig):
    """`cluster=slurm`: a batch script that brings Ray up over a Slurm allocation."""


CLUSTERS: dict[str, type[ClusterConfig]] = {"ray": RayCluster, "kuberay": KubeRayCluster, "slurm": SlurmCluster}
"""The class of each kind's settings."""


def _names(value: Any) -> list[str]:
    names = [] if value is None else [value] if isinstance(value, str) else value
    accepted = "names of environment variables, such as [HF_TOKEN]"
    if not isinstance(names, Sequence) or not all(isinstance(n, str) and _VARIABLE.fullmatch(n) for n in names):
        raise UserError(f"cluster.env_from: what was given is not accepted; give {accepted}, never their values")
    return list(dict.fromkeys(names))


def _variables(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"cluster.env: {value!r} is not accepted; give {{NAME: VALUE}}")
    for name, text in value.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise UserError(f"cluster.env: {name!r} is not accepted as the name of an environment variable")
        if _SECRET.search(name):
            raise UserError(f"cluster.env.{name}: looks like a secret; give its name alone, cluster.env_from=[{name}]")
        if not isinstance(text, (str, int, float)):
            raise UserError(f"cluster.env.{name}: {text!r} is not accepted; give a text or a number")
    return {name: str(text).lower() if isinstance(text, bool) else str(text) for name, text in value.items()}
