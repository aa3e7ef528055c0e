"""The packages that svd_batch needs, in the versions that are installed here, as pip takes them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from svd_batch.errors import UserError

_CLUSTERS_OWN = {"ray", "pip", "setuptools"}
"""What a job must take as the cluster has it, with what it needs: two versions of Ray don't talk to each other."""


_STORES = {"s3": "s3fs", "gcs": "gcsfs", "azure": "adlfs"}
"""Extras that a job may need, and the package that tells whether they are installed here."""


def pinned(name: str) -> list[str]:
    """Return `package==version` for all that a distribution needs, directly or not, sorted.

    With those of its extras for object stores that are installed here.

    A local version such as 2.13.0+cpu loses its end, since the cluster's machines have other devices.

    Raises: UserError where the distribution isn't installed, as in a bare copy of the sources.
    """
    try:
        todo = _requirements(name, frozenset(extra for extra, package in _STORES.items() if _is_installed(package)))
    except PackageNotFoundError:
        raise UserError(
            f"cluster.install: {name} is not installed here, so its versions aren't known; pip install it, or give an "
            "image that has them with cluster.install=false"
        ) from None
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen or key[0] in _CLUSTERS_OWN:
            continue
        seen.add(key)
        try:
            version = distribution(key[0]).version
            todo += _requirements(*key)
        except PackageNotFoundError:  # pip decides there, as it did not need it here
            continue
        versions[key[0]] = version.partition("+")[0]
    return [f"{package}=={version}" for package, version in sorted(versions.items())]


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _requirements(name: str, extras: frozenset[str]) -> list[Requirement]:
    """Return what a distribution needs on a machine like this one, with some of its extras."""
    needed = [Requirement(text) for text in distribution(name).requires or ()]
    contexts = [{"extra": extra} for extra in extras or {""}]
    return [r for r in needed if r.marker is None or any(r.marker.evaluate(context) for context in contexts)]
