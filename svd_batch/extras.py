"""Optional packages: is one there, and if not, the sentence that says how to get it. Imports none of them."""

from __future__ import annotations

from importlib.machinery import PathFinder

from svd_batch.errors import UserError


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; a folder that merely has its name, such as wandb's own, is none."""
    spec = PathFinder.find_spec(package)
    return spec is not None and spec.origin is not None


def require(extra: str, what: str) -> None:
    """Check that the package of an extra, which has the same name, is installed; `what` is what needs it.

    Raises: UserError naming the command that installs it.
    """
    if not is_installed(extra):
        raise UserError(f"{what}: the package {extra} is not installed; pip install 'svd_batch[{extra}]'")
