"""The settings of the verb `submit`: one class for each kind of cluster, chosen by `cluster=NAME`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from svd_batch.checks import check_int
from svd_batch.errors import UserError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIME = re.compile(r"(\d+-)?\d+:\d\d:\d\d")
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

    nodes: int = 1
    """Nodes of the job; Ray goes over all of them where there are several, and these aren't shared with other jobs."""
    gpus_per_node: Any = 1
    """GPUs of each node: a number, or KIND:NUMBER as in a100:4; 0 asks for none."""
    cpus_per_task: int | None = None
    """CPUs of each node; none is 4 for each GPU."""
    mem: str | None = None
    """Memory of each node, such as 64G; none is Slurm's default."""
    time: str | None = None
    """Time limit of one start, such as 8:00:00; none is the partition's. The job requeues itself before it."""
    partition: str | None = None
    """Partition."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that nodes must have, such as a100."""
    sbatch: Any = None
    """More of sbatch's options, each as one word: ["--mail-type=END","--reservation=x"]."""
    srun: Any = None
    """More of srun's options, such as pyxis's: ["--container-image=image.sqsh","--container-mounts=/data:/data"]."""
    prefix: Any = None
    """Words before the command on each node, such as [apptainer,exec,--nv,image.sif]."""
    setup: Any = None
    """Lines of shell that the script runs first, such as ["module load cuda/12.4"]."""
    python: str | None = None
    """Python of the job, on all nodes; none is the one that submits. In a container: python."""
    log: str | None = None
    """File for the job's output, %j is the job's id; none is OUTPUT/.svd_batch/slurm/slurm-%j.log."""
    warn_s: int = 120
    """Seconds before the time limit at which the job commits what it makes and requeues itself."""
    max_requeues: int = 100
    """How often the job may requeue itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("cluster.nodes", self.nodes, 1, 10_000)
        self.num_gpus()
        if self.cpus_per_task is not None:
            check_int("cluster.cpus_per_task", self.cpus_per_task, 2, 4096)
        check_int("cluster.warn_s", self.warn_s, 60, 65_535)
        check_int("cluster.max_requeues", self.max_requeues, 0, 1_000_000)
        for key in ("mem", "time", "partition", "account", "qos", "constraint", "python", "log"):
            value = getattr(self, key)
            if value is not None and (not value.strip() or not value.isprintable()):
                raise UserError(f"cluster.{key}: {value!r} is not accepted; give a text of one line, or leave it out")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UserError(f"cluster.time: {self.time!r} is not accepted; give '8:00:00' or '2-12:00:00', in quotes")
        for key in ("sbatch", "srun", "prefix", "setup"):
            setattr(self, key, _lines(f"cluster.{key}", getattr(self, key)))
        for option in self.sbatch:
            if not option.startswith("-"):
                raise UserError(f"cluster.sbatch: {option!r} is not accepted; give options such as ['--mail-type=END']")

    def num_gpus(self) -> int:
        """Return the number of GPUs of a node."""
        number = str(self.gpus_per_node).rpartition(":")[2]
        if isinstance(self.gpus_per_node, bool) or not re.fullmatch(r"([\w.-]+:)?\d{1,3}", str(self.gpus_per_node)):
            raise UserError(
                f"cluster.gpus_per_node: {self.gpus_per_node!r} is not accepted; give a number or KIND:NUMBER, "
                "such as 4 or a100:4"
            )
        return int(number)

    def cpus(self) -> int:
        """Return the CPUs to ask for on each node."""
        return self.cpus_per_task or 4 * max(1, self.num_gpus())


CLUSTERS: dict[str, type[ClusterConfig]] = {"ray": RayCluster, "kuberay": KubeRayCluster, "slurm": SlurmCluster}
"""The class of each kind's settings."""


def _lines(where: str, value: Any) -> list[str]:
    """Return a list of texts of one line each."""
    lines = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(lines, Sequence) or not all(isinstance(x, str) and x.strip() and x.isprintable() for x in lines):
        raise UserError(f"{where}: {value!r} is not accepted; give a list of texts of one line each")
    return list(lines)


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
