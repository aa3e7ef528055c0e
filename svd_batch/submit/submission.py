"""A job on its way to a cluster: its command line, its OUTPUT and what every kind of cluster can do with it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Protocol

from svd_batch.access import unsecret
from svd_batch.config import Config
from svd_batch.errors import UserError
from svd_batch.submit.settings import ClusterConfig, ClusterKind

Say = Callable[[str], None]
"""Takes a line for the person who waits."""

_DIRS = ("--config-dir", "-cd")
_PLAIN = re.compile(r"[\w./:@+-]+")


@dataclass(frozen=True)
class Submission:
    """A job as it was asked for. `config` has been checked as `run` would check it."""

    config: Config
    output: str
    """As given, or the default; each kind of cluster decides which places it can reach."""
    arguments: tuple[str, ...]
    """What goes to the job's verb as it is: options, and KEY=VALUE but for cluster, output and backend.address."""
    conf: Path
    """Folder of the configuration."""

    @property
    def cluster(self) -> ClusterConfig:
        """Return the settings of the cluster."""
        return self.config.cluster

    def words(self, output: str | None = None) -> list[str]:
        """Return the arguments of `python -m svd_batch` on the cluster, in a Ray that is running there."""
        place = [f"output={hydra_quoted(output or self.output)}", "backend.address=auto"]
        return [self.cluster.verb.value, *self.arguments, *place]


class Cluster(Protocol):
    """A kind of cluster with one submission. Making one checks what can be checked without reaching the cluster."""

    def plan(self) -> str:
        """Return what would be sent, for --dry-run. Sends nothing, reaches for nothing, shows no secret."""

    def submit(self, say: Say, warn: Say, *, wait: bool, apply: bool) -> int:
        """Send the job and return an exit code: with `wait` the job's own, else 0 once it is accepted.

        `apply` is the option --apply, for a kind of cluster whose submission is a file first.
        """

    def status(self, say: Say) -> int:
        """Say how the last submission for this OUTPUT stands, and return 0; 1 where there is none."""

    def stop(self, say: Say) -> int:
        """Stop that submission so that it can be resumed, and return 0; 1 where none is running."""


def make_cluster(submission: Submission) -> Cluster:
    """Return the cluster that the settings name, for one submission.

    Raises: UserError for settings, or a job, that this kind of cluster can't take.
    """
    for word in submission.arguments:
        if unsecret(word) != word:
            raise UserError(
                f"{unsecret(word)}: holds what looks like a secret, and a cluster keeps a job's arguments where others "
                "read them; hand secrets over with cluster.env_from"
            )
    kind = submission.cluster.kind
    if kind is ClusterKind.ray:
        from svd_batch.submit.ray_job import RayJob

        return RayJob(submission)
    if kind is ClusterKind.kuberay:
        from svd_batch.submit.kuberay import KubeRayJob

        return KubeRayJob(submission)
    if kind is ClusterKind.slurm:
        from svd_batch.submit.slurm import SlurmJob

        return SlurmJob(submission)
    raise UserError("cluster: none is chosen; give cluster=ray, cluster=kuberay or cluster=slurm")


def is_anywhere(place: str) -> bool:
    """Return whether a place means the same from another folder and, as far as can be told, on another machine."""
    return "://" in place or PurePosixPath(place).is_absolute()


def unfound(submission: Submission, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (key, place) of what the job reads by a relative path that is not among the names of the files sent."""
    given = [("manifest", spec) for spec in submission.config.manifest or ()]
    model = submission.config.model.id
    if model.startswith(".") or Path(model).is_dir():
        given.append(("model.id", model))
    options = submission.arguments
    given += [("--config-dir", folder) for option, folder in pairwise(options) if option in _DIRS]
    for where, place in given:
        below = os.path.normpath(place)
        found = any(n == below or n.startswith(f"{below}/") or fnmatch(n, below) for n in names)
        if not is_anywhere(place) and not found and below != ".":
            yield where, place


def secrets(names: Sequence[str]) -> dict[str, str]:
    """Return the values of environment variables.

    Raises: UserError for one that isn't set.
    """
    for name in names:
        if name not in os.environ:
            raise UserError(f"cluster.env_from: {name} is not set in your environment; export it, or leave it out")
    return {name: os.environ[name] for name in names}


def hydra_quoted(text: str) -> str:
    """Return a text as the value of an override that Hydra reads back unchanged."""
    if _PLAIN.fullmatch(text):
        return text
    return "'" + re.sub(r"(\\+)(?=$|')", r"\1\1", text).replace("'", "\\'") + "'"
