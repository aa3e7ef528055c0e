"""Calls kubectl for RayJobs, with one sentence for each of its refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import Any

from svd_batch.access import printable
from svd_batch.errors import ProcessError, UserError
from svd_batch.stopping import INTERRUPTED
from svd_batch.submit.submission import Say

PROGRAM = "kubectl"
KIND = "rayjobs.ray.io"
TIMEOUT_S = 15
POLL_S = 5.0
_ENDED = {"Complete", "Failed", "ValidationFailed"}
_SENTENCES = (
    (
        ('no matches for kind "RayJob"', "the server doesn't have a resource type"),
        "this Kubernetes cluster knows no RayJob (ray.io/v1); install the KubeRay operator: "
        "https://docs.ray.io/en/latest/cluster/kubernetes/getting-started/kuberay-operator-installation.html",
    ),
    (
        ("Unable to connect to the server", "was refused", "no configuration has been provided", "i/o timeout"),
        "kubectl reaches no Kubernetes cluster; look at `kubectl cluster-info` and its context",
    ),
    (("Unauthorized", "You must be logged in"), "the Kubernetes cluster refuses your credentials; log in again"),
)


def _call(arguments: list[str], namespace: str | None, text: str | None = None) -> str:
    """Return what kubectl prints.

    Raises: UserError for whatever it refuses.
    """
    if shutil.which(PROGRAM) is None:
        raise UserError(
            "--apply: kubectl is not on PATH; install it, or leave --apply out and take the manifest to where it is"
        )
    place = [] if namespace is None else [f"--namespace={namespace}"]
    command = [PROGRAM, *arguments, *place, f"--request-timeout={TIMEOUT_S}s"]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=4 * TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError("cluster=kuberay: kubectl does not answer; look at `kubectl cluster-info`") from None
    if done.returncode == 0:
        return done.stdout
    for signs, sentence in _SENTENCES:
        if any(sign in done.stderr for sign in signs):
            raise UserError(f"cluster=kuberay: {sentence}")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    raise UserError(f"cluster=kuberay: kubectl refuses: {printable(lines[-1] if lines else 'without a word')}")


def create(text: str, namespace: str | None) -> str:
    """Create a RayJob and return its name; fields that the cluster does not know are refused, not dropped."""
    out = _call(["create", "--validate=strict", "-f", "-", "-o", "name"], namespace, text)
    return out.strip().rpartition("/")[2]


def rayjobs(label: str, namespace: str | None) -> list[dict[str, Any]]:
    """Return the RayJobs with a label, the oldest first."""
    items = json.loads(_call(["get", KIND, "-l", label, "-o", "json"], namespace))["items"]
    return sorted(items, key=lambda job: str(job["metadata"]["creationTimestamp"]))


def delete(name: str, namespace: str | None) -> None:
    """Ask for a RayJob's deletion; its operator stops it first."""
    _call(["delete", f"{KIND}/{name}", "--wait=false"], namespace)


def until_over(job: str, namespace: str | None, say: Say) -> int:
    """Say each state of a RayJob until it ends, and return an exit code: 0, or 1 where it failed."""
    told = ""
    try:
        while True:
            found = json.loads(_call(["get", f"{KIND}/{job}", "-o", "json"], namespace))
            if (now := state(found)) != told:
                say(f"rayjob/{job}: {now}")
            told = now
            if is_over(found):
                break
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        say(f"no longer following rayjob/{job}, which goes on; --status and --stop with the same arguments reach it")
        return INTERRUPTED
    status = found.get("status", {})
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    if status.get("jobStatus") == "STOPPED":
        return INTERRUPTED
    reason = printable(status.get("message") or status.get("reason") or "no reason given")
    raise ProcessError(
        f"rayjob/{job} failed: {reason}; what is finished is kept, and the same arguments go on from here"
    )


def name(job: dict[str, Any]) -> str:
    """Return a RayJob's name."""
    return str(job["metadata"]["name"])


def state(job: dict[str, Any]) -> str:
    """Return how a RayJob stands, in the operator's words."""
    status = job.get("status", {})
    words = [status.get("jobDeploymentStatus") or "Created", status.get("jobStatus"), status.get("reason")]
    failed = f"{status['failed']} failed tries" if status.get("failed") else None
    return ", ".join(printable(str(word)) for word in (*words, failed) if word)


def is_over(job: dict[str, Any]) -> bool:
    """Return whether a RayJob has ended for good."""
    return job.get("status", {}).get("jobDeploymentStatus") in _ENDED
