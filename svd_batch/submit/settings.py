"""The settings of the verb `submit`: one class for each kind of cluster, chosen by `cluster=NAME`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from svd_batch.access import unsecret
from svd_batch.checks import check_float, check_int
from svd_batch.errors import UserError

_ADDRESS = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(/[\w./~-]*)?")
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")
_MEMORY = re.compile(r"[1-9]\d*([KMGT]i?)?")
_MOUNT = re.compile(r"/[^:\s]*[^:/\s]")
_TOLERATION = ("key", "operator", "value", "effect", "tolerationSeconds")
MAX_PREFIX = 41
"""KubeRay takes names of 47 characters; Kubernetes adds five of its own to ours, and a hyphen stands between."""

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


class SubmissionMode(Enum):
    """How KubeRay starts a job on the Ray cluster that it has made; the names are KubeRay's."""

    K8sJobMode = "K8sJobMode"
    HTTPMode = "HTTPMode"
    SidecarMode = "SidecarMode"


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
class HeadGroup:
    """The head's pod: it plans, counts and writes tables, and makes no videos."""

    cpus: int = 2
    """CPUs."""
    memory: str = "8Gi"
    """Memory, as Kubernetes writes it."""
    node_selector: Any = None
    """Labels of the nodes it may run on, {NAME: VALUE}; not spot nodes, since with the head all that runs is lost."""
    tolerations: Any = None
    """Taints it bears, a list as in Kubernetes."""

    def __post_init__(self) -> None:
        _check_pod("cluster.head", self)


@dataclass
class WorkerGroup:
    """Pods that are alike: they load pictures and make videos."""

    name: str = "gpu"
    """Name of the group, each its own."""
    gpus: int = 1
    """GPUs of each pod (nvidia.com/gpu)."""
    cpus: int = 8
    """CPUs of each pod: one for each GPU and at least one for loading pictures."""
    memory: str = "32Gi"
    """Memory of each pod, as Kubernetes writes it."""
    min: int = 0
    """Pods that are always there while the job runs."""
    max: int = 1
    """Pods at most."""
    node_selector: Any = None
    """Labels of the nodes they may run on, {NAME: VALUE}, such as a kind of GPU, or spot nodes."""
    tolerations: Any = None
    """Taints they bear, a list as in Kubernetes."""

    def __post_init__(self) -> None:
        where = f"cluster.workers.{self.name}"
        if not _LABEL.fullmatch(self.name):
            raise UserError(f"cluster.workers: {self.name!r} is not accepted; give lower-case letters, digits and -")
        _check_pod(where, self)
        check_int(f"{where}.gpus", self.gpus, 0, 64)
        check_int(f"{where}.max", self.max, 1, 10_000)
        check_int(f"{where}.min", self.min, 0, self.max)
        if self.cpus < self.gpus + 1:
            raise UserError(f"{where}.cpus: {self.cpus} is not accepted; give {self.gpus + 1} or more, see there")


@dataclass
class Volume:
    """A disk that is there before the job and after it: one of claim, nfs and host_path."""

    name: str = ""
    """Name of the volume, each its own."""
    path: str = ""
    """Where all pods see it, an absolute path."""
    claim: str | None = None
    """A PersistentVolumeClaim that many nodes may write to (ReadWriteMany)."""
    nfs: str | None = None
    """An NFS export, SERVER:/PATH."""
    host_path: str | None = None
    """A folder of each node, different ones on different nodes: for caches, never for OUTPUT."""
    read_only: bool = False
    """Nothing is written to it."""
    cache: bool = False
    """Checkpoints from the hub are kept here (HF_HOME), so that each is fetched once."""

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.name):
            raise UserError(
                f"cluster.volumes: name {self.name!r} is not accepted; give lower-case letters, digits and -"
            )
        where = f"cluster.volumes.{self.name}"
        if not _MOUNT.fullmatch(self.path):
            raise UserError(f"{where}.path: {self.path!r} is not accepted; give an absolute path, such as /data")
        if sum(source is not None for source in (self.claim, self.nfs, self.host_path)) != 1:
            raise UserError(f"{where}: give one of claim, nfs and host_path")
        if self.nfs is not None and not re.fullmatch(r"[^:]+:/.*", self.nfs):
            raise UserError(f"{where}.nfs: {self.nfs!r} is not accepted; give SERVER:/PATH")
        if self.cache and self.read_only:
            raise UserError(f"{where}.read_only: a cache is written to; give false")


@dataclass
class KubeRayCluster(ClusterConfig):
    """`cluster=kuberay`: a RayJob manifest for the KubeRay operator of a Kubernetes cluster."""

    image: str | None = None
    """Image with svd_batch and its dependencies, as docker/Dockerfile makes one; needed."""
    image_pull_secret: str | None = None
    """Secret with which the image is pulled."""
    ray_version: str | None = None
    """Version of Ray in the image; none is the one here."""
    name: str | None = None
    """What the names of the RayJobs begin with; none makes one of OUTPUT."""
    namespace: str | None = None
    """Namespace of the RayJob; none is kubectl's own."""
    file: str | None = None
    """Where the manifest is written; none is NAME.yaml in this folder."""
    service_account: str | None = None
    """Service account of all pods, as for access to object storage."""
    run_as_user: int = 1000
    """User and group that all pods run as; 0, root, is refused."""
    secret: str | None = None
    """Kubernetes Secret with a key for each name in cluster.env_from."""
    head: HeadGroup = field(default_factory=HeadGroup)
    """The head's pod: cpus, memory, node_selector, tolerations."""
    workers: list[WorkerGroup] = field(default_factory=lambda: [WorkerGroup()])
    """Groups of pods, [{name, gpus, cpus, memory, min, max, node_selector, tolerations}, ...]."""
    volumes: list[Volume] = field(default_factory=list)
    """Disks, [{name, path, claim or nfs or host_path, read_only, cache}, ...]."""
    autoscaler: bool = True
    """Pods of each group come and go between min and max; false keeps max of them."""
    idle_timeout_s: int = 120
    """Seconds after which the autoscaler takes an idle pod away."""
    submission_mode: SubmissionMode = SubmissionMode.K8sJobMode
    """Who starts the job: K8sJobMode (a pod of its own, with its lines), HTTPMode (the operator) or SidecarMode."""
    backoff_limit: int = 3
    """Times that a failed job is begun again, each on a new Ray cluster; it goes on where it stopped."""
    ttl_s: int = 600
    """Seconds that the Ray cluster stays after the end, for looking at its dashboard."""
    token_auth: bool = True
    """Close the cluster's dashboard and job port with a token (KubeRay 1.5.1, Ray 2.52 or newer)."""
    queue: str | None = None
    """Kueue's LocalQueue; the job waits there for its share, with max pods of each group and no autoscaler."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("name", "namespace"):
            value = getattr(self, key)
            if value is not None and not _LABEL.fullmatch(value):
                raise UserError(f"cluster.{key}: {value!r} is not accepted; give lower-case letters, digits and -")
        if self.name is not None and len(self.name) > MAX_PREFIX:
            raise UserError(f"cluster.name: {self.name!r} is too long; give at most {MAX_PREFIX} characters")
        check_int("cluster.run_as_user", self.run_as_user, 1, 2**31 - 1)
        check_int("cluster.idle_timeout_s", self.idle_timeout_s, 1, 86_400)
        check_int("cluster.backoff_limit", self.backoff_limit, 0, 1000)
        check_int("cluster.ttl_s", self.ttl_s, 0, 2**31 - 1)
        if self.env_from and self.secret is None:
            raise UserError(
                "cluster.secret: none given, and cluster.env_from needs it; give a Kubernetes Secret's name"
            )
        if not self.workers:
            raise UserError("cluster.workers: the list is empty; give at least one group")
        for key in ("workers", "volumes"):
            names = [item.name for item in getattr(self, key)]
            if twice := [name for name in names if names.count(name) > 1]:
                raise UserError(f"cluster.{key}: {twice[0]!r} is there twice; give each its own name")
        if sum(volume.cache for volume in self.volumes) > 1:
            raise UserError("cluster.volumes: cache is set on several; give it to one")


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


def _check_pod(where: str, pod: HeadGroup | WorkerGroup) -> None:
    check_int(f"{where}.cpus", pod.cpus, 1, 1024)
    if not _MEMORY.fullmatch(pod.memory):
        raise UserError(f"{where}.memory: {pod.memory!r} is not accepted; give an amount such as 32Gi")
    pod.node_selector = {k: str(v) for k, v in _mapping(f"{where}.node_selector", pod.node_selector).items()}
    tolerations = [] if pod.tolerations is None else list(pod.tolerations)
    for toleration in tolerations:
        unknown = set(_mapping(f"{where}.tolerations", toleration)) - set(_TOLERATION)
        if unknown:
            raise UserError(f"{where}.tolerations: unknown key {sorted(unknown)[0]}; they are {', '.join(_TOLERATION)}")
    pod.tolerations = tolerations


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
