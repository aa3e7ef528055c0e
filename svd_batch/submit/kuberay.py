"""`cluster=kuberay`: a RayJob manifest (ray.io/v1) for the KubeRay operator, and kubectl to hand it over.

Every retry of a RayJob is a new Ray cluster, so nothing that counts may live in its pods: OUTPUT lies on a volume that
outlives them or in a store, and the job's arguments, image and variables are all that a retry needs.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, cast

import yaml

from svd_batch.access import unsecret
from svd_batch.errors import UserError
from svd_batch.submit import kubectl
from svd_batch.submit.settings import (
    MAX_PREFIX,
    HeadGroup,
    KubeRayCluster,
    SubmissionMode,
    Volume,
    WorkerGroup,
)
from svd_batch.submit.submission import Say, Submission, is_anywhere, unfound

GROW_S = 3600
"""Seconds that a job waits for its first pods: a node with a GPU takes minutes, and a large image some more."""

STOP_S = 60
"""Seconds from SIGTERM to SIGKILL, for pods and for the job: a run ends in order within 30."""

_GPU = "nvidia.com/gpu"
_LABEL = "svd-batch/output"


class KubeRayJob:
    """One RayJob; a Cluster."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.settings = cast("KubeRayCluster", submission.cluster)
        self.digest = hashlib.sha256(submission.output.rstrip("/").encode()).hexdigest()[:8]

    # --- what is checked --------------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self.settings.image or not self.settings.image.strip():
            raise UserError("cluster.image: none given; give one with svd_batch in it, as docker/Dockerfile makes it")
        self._check_output()
        for where, place in unfound(self.submission, ()):
            raise UserError(
                f"{where}: {place!r} is a path of this machine; give one on a volume of cluster.volumes, or an address "
                "in a store"
            )

    def _check_output(self) -> None:
        output = self.submission.output
        if "://" in output:
            return
        volume = self._volume_of(output) if is_anywhere(output) else None
        if volume is None:
            raise UserError(
                f"output: {output!r} lies inside a pod, and is gone with it; give a folder on a volume of "
                f"cluster.volumes ({', '.join(v.path for v in self.settings.volumes) or 'there are none'}), or an "
                "address in a store"
            )
        if volume.host_path is not None:
            raise UserError(
                f"output: {output!r} lies on cluster.volumes.{volume.name}, a host_path: each node has its own, and a "
                "retry may run on others; give a claim or nfs that all nodes share"
            )
        if volume.read_only:
            raise UserError(f"output: {output!r} lies on cluster.volumes.{volume.name}, which is read_only")

    def _volume_of(self, place: str) -> Volume | None:
        path = PurePosixPath(place)
        below = [v for v in self.settings.volumes if ".." not in path.parts and path.is_relative_to(v.path)]
        return max(below, key=lambda v: len(v.path), default=None)

    # --- the manifest -----------------------------------------------------------------------------------------

    @property
    def _prefix(self) -> str:
        """Return what the names of all RayJobs for this OUTPUT begin with."""
        if self.settings.name is not None:
            return self.settings.name
        name = unsecret(self.submission.output.rstrip("/")).rpartition("/")[2].lower()
        slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
        return f"svdb-{slug[: MAX_PREFIX - 14].strip('-') or 'output'}-{self.digest}"

    def manifest(self) -> dict[str, Any]:
        """Return the RayJob.

        Raises: UserError for a job that would lose what it makes, or lack what it reads.
        """
        self._check()
        settings = self.settings
        metadata: dict[str, Any] = {"generateName": f"{self._prefix}-"}
        if settings.namespace is not None:
            metadata["namespace"] = settings.namespace
        metadata["labels"] = {"app.kubernetes.io/name": "svd-batch", _LABEL: self.digest}
        if settings.queue is not None:
            metadata["labels"]["kueue.x-k8s.io/queue-name"] = settings.queue
        metadata["annotations"] = {_LABEL: unsecret(self.submission.output)}
        spec: dict[str, Any] = {
            "entrypoint": shlex.join(["python", "-m", "svd_batch", *self._words()]),
            "submissionMode": settings.submission_mode.value,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": settings.ttl_s,
            "backoffLimit": settings.backoff_limit,
        }
        if settings.queue is not None:
            spec["suspend"] = True  # Kueue starts it
        spec["rayClusterSpec"] = self._cluster()
        return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}

    def _words(self) -> list[str]:
        """Return the job's arguments; its actors go by the GPUs that there will be, of which it sees none at first."""
        workers = self.settings.workers
        most = sum(group.gpus * group.max for group in workers)
        least = sum(group.gpus * (group.min if self._grows else group.max) for group in workers)
        own = {"backend.wait_s": f"{GROW_S}"}
        if most:
            own |= {"backend.num_gpus": "1", "backend.num_actors": f"[{max(1, least)},{most}]"}
        given = {argument.lstrip("+").partition("=")[0] for argument in self.submission.arguments}
        return [*self.submission.words(), *(f"{key}={value}" for key, value in own.items() if key not in given)]

    @property
    def _grows(self) -> bool:
        return self.settings.autoscaler and self.settings.queue is None

    def _cluster(self) -> dict[str, Any]:
        settings = self.settings
        cluster: dict[str, Any] = {"rayVersion": settings.ray_version or version("ray")}
        if settings.token_auth:
            cluster["authOptions"] = {"mode": "token"}
        cluster["enableInTreeAutoscaling"] = self._grows
        if self._grows:
            cluster["autoscalerOptions"] = {"idleTimeoutSeconds": settings.idle_timeout_s}
        cluster["headGroupSpec"] = {
            "rayStartParams": {"num-cpus": "0"},  # nothing but the job's own process runs there
            "template": self._pod("ray-head", settings.head),
        }
        cluster["workerGroupSpecs"] = [self._workers(group) for group in settings.workers]
        return cluster

    def _workers(self, group: WorkerGroup) -> dict[str, Any]:
        fewest = group.min if self._grows else group.max
        return {
            "groupName": group.name,
            "replicas": fewest,
            "minReplicas": fewest,
            "maxReplicas": group.max,
            "rayStartParams": {},
            "template": self._pod("ray-worker", group, group.gpus),
        }

    def _pod(self, name: str, group: HeadGroup | WorkerGroup, gpus: int = 0) -> dict[str, Any]:
        settings, amounts = self.settings, {"cpu": str(group.cpus), "memory": group.memory}
        if gpus:
            amounts[_GPU] = str(gpus)
        container: dict[str, Any] = {"name": name, "image": settings.image}
        if name == "ray-head":
            ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
            container["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
        container["env"] = self._variables()
        container["resources"] = {"requests": dict(amounts), "limits": dict(amounts)}
        container["securityContext"] = {"allowPrivilegeEscalation": False}
        if settings.volumes:
            container["volumeMounts"] = [_mount(volume) for volume in settings.volumes]
        user = settings.run_as_user
        pod: dict[str, Any] = {
            "securityContext": {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user},
            "terminationGracePeriodSeconds": STOP_S,
            "containers": [container],
        }
        if settings.volumes:
            pod["volumes"] = [_volume(volume) for volume in settings.volumes]
        if settings.service_account is not None:
            pod["serviceAccountName"] = settings.service_account
        if settings.image_pull_secret is not None:
            pod["imagePullSecrets"] = [{"name": settings.image_pull_secret}]
        if group.node_selector:
            pod["nodeSelector"] = group.node_selector
        if group.tolerations:
            pod["tolerations"] = group.tolerations
        return {"spec": pod}

    def _variables(self) -> list[dict[str, Any]]:
        plain = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), "RAY_USAGE_STATS_ENABLED": "0"}
        cache = next((volume for volume in self.settings.volumes if volume.cache), None)
        if cache is not None:
            plain["HF_HOME"] = f"{cache.path}/huggingface"
        plain |= self.settings.env
        secret = self.settings.secret
        return [
            *({"name": name, "value": value} for name, value in plain.items()),
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}
                for name in self.settings.env_from
            ),
        ]

    def plan(self) -> str:
        """Return the manifest as YAML."""
        return yaml.safe_dump(self.manifest(), sort_keys=False, width=10_000, allow_unicode=True)

    # --- kubectl ----------------------------------------------------------------------------------------------

    def submit(self, say: Say, warn: Say, *, wait: bool, apply: bool) -> int:
        """Write the manifest; with `apply` hand it over, and with `wait` too say how it goes until it ends."""
        text = self.plan()
        if not self.settings.token_auth:
            warn(
                "cluster.token_auth=false: whoever reaches the head's ports 8265 and 10001 inside the Kubernetes "
                "cluster can run what they like there; close them with a NetworkPolicy (docs/clusters.md)"
            )
        if not apply:
            path = Path(self.settings.file or f"{self._prefix}.yaml")
            path.write_text(text)
            say(f"wrote {path}; `kubectl create -f {shlex.quote(str(path))}`, or the same arguments with --apply")
            return 0
        earlier = self._jobs()
        if earlier and not kubectl.is_over(earlier[-1]):
            raise UserError(
                f"output: {self.submission.output} is being made by {kubectl.name(earlier[-1])}, which is "
                f"{kubectl.state(earlier[-1])}; wait, or stop it with --stop and the same arguments"
            )
        job = kubectl.create(text, self.settings.namespace)
        say(f"created rayjob/{job}")
        if not wait:
            say("--status says how it stands and --stop stops it, each with the same arguments")
            return 0
        if self.settings.submission_mode is SubmissionMode.K8sJobMode:
            say(f"its lines: kubectl logs -f job/{job}")
        return kubectl.until_over(job, self.settings.namespace, say)

    def _jobs(self) -> list[dict[str, Any]]:
        return kubectl.rayjobs(f"{_LABEL}={self.digest}", self.settings.namespace)

    def status(self, say: Say) -> int:
        """Say how the last RayJob for this OUTPUT stands."""
        jobs = self._jobs()
        if not jobs:
            say(f"there is no RayJob for {self.submission.output}")
            return 1
        say(f"rayjob/{kubectl.name(jobs[-1])}: {kubectl.state(jobs[-1])}")
        return 0

    def stop(self, say: Say) -> int:
        """Delete the RayJob that runs: the operator stops the job in order and takes its cluster away."""
        running = [job for job in self._jobs() if not kubectl.is_over(job)]
        if not running:
            say(f"no RayJob for {self.submission.output} is running")
            return 1
        name = kubectl.name(running[-1])
        kubectl.delete(name, self.settings.namespace)
        say(f"deleted rayjob/{name}; what is finished is kept, and --apply with the same arguments goes on from here")
        return 0


def _mount(volume: Volume) -> dict[str, Any]:
    return {"name": volume.name, "mountPath": volume.path, **({"readOnly": True} if volume.read_only else {})}


def _volume(volume: Volume) -> dict[str, Any]:
    if volume.claim is not None:
        return {"name": volume.name, "persistentVolumeClaim": {"claimName": volume.claim}}
    if volume.nfs is not None:
        server, path = volume.nfs.split(":", 1)
        return {"name": volume.name, "nfs": {"server": server, "path": path}}
    return {"name": volume.name, "hostPath": {"path": volume.host_path, "type": "DirectoryOrCreate"}}
