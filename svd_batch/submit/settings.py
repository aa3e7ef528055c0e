"""The settings of the verb `submit`: one class for each kind of cluster, chosen by `cluster=NAME`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from svd_batch.access import unsecret
from svd_batch.checks import check_float, check_int
from svd_batch.errors import UserError

_ADDRESS = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(/[\w./~-]*)?")
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
    working_dir: str | None = "."
    """Folder that travels to the cluster and that the job runs in, up to 100 MiB packed; none sends svd_batch alone."""
    exclude: Any = None
    """Names, patterns or paths of that folder to leave out; hidden files, environments and outputs never travel."""
    install: bool = False
    """Install the dependencies on the cluster, in the versions that are here; else its image must have them."""
    entrypoint_num_cpus: float = 0.0
    """CPUs that the job's own process reserves; if all of these are 0 it runs on the head node."""
    entrypoint_num_gpus: float = 0.0
    """GPUs that the job's own process reserves, beside those of its actors; it needs none."""
    entrypoint_memory: int = 0
    """Bytes of memory that the job's own process reserves."""
    entrypoint_resources: Any = None
    """Custom resources that the job's own process reserves, {NAME: AMOUNT}."""
    metadata: Any = None
    """What the cluster's dashboard shows of the job, {NAME: TEXT}, beside what svd_batch says of it."""
    stop_wait_s: int = 60
    """Seconds between SIGTERM and SIGKILL when the job is stopped; Ray's own 3 are too few to end in order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.address = _http_address(self.address)
        self.exclude = _texts("cluster.exclude", self.exclude)
        self.metadata = _mapping("cluster.metadata", self.metadata)
        self.entrypoint_resources = dict(_mapping("cluster.entrypoint_resources", self.entrypoint_resources))
        for key in ("entrypoint_num_cpus", "entrypoint_num_gpus"):
            check_float(f"cluster.{key}", getattr(self, key), 0, 1e6)
        check_int("cluster.entrypoint_memory", self.entrypoint_memory, 0, 2**50)
        for name, amount in self.entrypoint_resources.items():
            check_float(f"cluster.entrypoint_resources.{name}", amount, 0, 1e6)
        check_int("cluster.stop_wait_s", self.stop_wait_s, 1, 86_400)


@dataclass
class KubeRayCluster(ClusterConfig):
    """`cluster=kuberay`: a RayJob manifest for the KubeRay operator of a Kubernetes cluster."""


@dataclass
class SlurmCluster(ClusterConfig):
    """`cluster=slurm`: a batch script that brings Ray up over a Slurm allocation."""


CLUSTERS: dict[str, type[ClusterConfig]] = {"ray": RayCluster, "kuberay": KubeRayCluster, "slurm": SlurmCluster}
"""The class of each kind's settings."""


def _http_address(value: str) -> str:
    address = value if "://" in value else f"http://{value}"
    found = _ADDRESS.fullmatch(address.rstrip("/"))
    if not found:
        hint = "; ray:// is Ray Client's, which isn't used here" if value.startswith("ray://") else ""
        raise UserError(
            f"cluster.address: {unsecret(value)!r} is not accepted; give the job server's, such as http://head:8265{hint}"
        )
    return address.rstrip("/")


def _texts(where: str, value: Any) -> list[str]:
    texts = [] if value is None else [value] if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{where}: {value!r} is not accepted; give a list of texts")
    return texts


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {value!r} is not accepted; give {{NAME: VALUE}}")
    return {str(name): content for name, content in value.items()}


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
