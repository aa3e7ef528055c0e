"""Reaches the job server of a Ray cluster: is it one, of which version, does it ask for a token.

Each no is one sentence, within seconds.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from svd_batch.errors import UserError
from svd_batch.extras import is_installed

LEAST_RAY, BELOW_RAY = (2, 58), (3, 0)
"""The versions of Ray that svd_batch runs on, as in pyproject.toml."""

_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers of Ray's client that tell of every upload and every closed socket."""

TIMEOUT_S = 10.0
_OTHER_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Variables that Ray's client puts over the address that it is given."""


def connect(address: str, warn: Callable[[str], None]) -> Any:
    """Return a JobSubmissionClient of a job server that answers, speaks for a Ray we run on, and takes our token.

    Warns where anyone may reach it. Raises: UserError, within seconds.
    """
    if not is_installed("aiohttp"):
        raise UserError("cluster=ray: Ray's job client is not installed; pip install 'svd_batch[cluster]'")
    _reach(address)
    _check_version(address)
    headers = _headers(address, warn)
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _without(_OTHER_ADDRESSES):
        return JobSubmissionClient(address, headers=headers)


def _reach(address: str) -> None:
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError as error:
        reason = "it did not answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
        raise UserError(
            f"cluster.address: {address} can't be reached: {reason}; is the head node up, and its dashboard's port "
            "open to this machine (see docs/clusters.md on tunnels)?"
        ) from None


def _get(address: str, path: str, headers: dict[str, str] | None = None) -> Any:
    import requests

    try:
        return requests.get(address + path, headers=headers, timeout=TIMEOUT_S, allow_redirects=False)
    except requests.exceptions.SSLError as error:
        raise UserError(f"cluster.address: {address} offers no TLS that is trusted here: {error}") from None
    except requests.exceptions.RequestException as error:
        raise UserError(f"cluster.address: {address} did not answer as a job server does: {error}") from None


def _check_version(address: str) -> None:
    answer = _get(address, "/api/version")
    if answer.status_code in (401, 403):
        answer = _get(address, "/api/version", _bearer())
    try:
        version = str(answer.json()["ray_version"])
    except (ValueError, KeyError, TypeError):
        if answer.status_code in (401, 403):
            raise _no_token(address) from None
        raise UserError(
            f"cluster.address: {address} is no Ray job server (it answered {answer.status_code} where Ray's version "
            "should be); give the address of the head node's dashboard, usually port 8265"
        ) from None
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not LEAST_RAY <= number < BELOW_RAY:
        least, below = (".".join(map(str, v)) for v in (LEAST_RAY, BELOW_RAY))
        raise UserError(
            f"cluster.address: {address} runs Ray {version} and svd_batch needs at least {least}, below {below}"
        )


def _headers(address: str, warn: Callable[[str], None]) -> dict[str, str]:
    """Return what proves who we are, where that is asked for; warn where it isn't and others may be near."""
    answer = _get(address, "/api/jobs/")
    if answer.status_code not in (401, 403):
        if not is_loopback(address):
            warn(
                f"{address} takes jobs from anyone who can reach it, with no token: whoever does so can run what they "
                "like on the cluster. Start Ray with RAY_AUTH_MODE=token, or close the port (docs/clusters.md)"
            )
        return {}
    headers = _bearer()
    if not headers or _get(address, "/api/jobs/", headers).status_code in (401, 403):
        raise _no_token(address)
    if address.startswith("http://") and not is_loopback(address):
        warn(f"{address} gets the token unencrypted; use https or a tunnel (docs/clusters.md)")
    return headers


def _no_token(address: str) -> UserError:
    found = "the token found here is not the cluster's" if token() else "none was found here"
    return UserError(
        f"cluster.address: {address} asks for a token and {found}; put the cluster's into RAY_AUTH_TOKEN, or into a "
        "file that RAY_AUTH_TOKEN_PATH names, or into ~/.ray/auth_token"
    )


def _bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {token()}"} if token() else {}


def token() -> str:
    """Return Ray's token from where Ray itself looks for it, or nothing."""
    if text := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return text
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray/auth_token")
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def is_loopback(address: str) -> bool:
    """Return whether an address is this machine's own, which nobody else reaches."""
    host = urlsplit(address).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
