"""Pictures by http and https: from public addresses only, within limits of size, time and redirects.

A manifest may come from anybody, so an address in it must not reach what only this machine can reach: every address
that a host's name stands for is checked, and the connection goes to one that was checked, at each redirect anew.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, urljoin

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import Url, make_headers, parse_url

import svd_batch
from svd_batch.access import Access, shown
from svd_batch.errors import ItemError

MAX_REDIRECTS = 5
CHUNK_BYTES = 2**16
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def download(url: str, access: Access) -> bytes:
    """Return what an http or https address gives.

    Raises: ItemError when the address or a redirect is refused, the answer isn't 200, or a limit is passed.
    """
    deadline = time.monotonic() + access.url_timeout_s
    authority: tuple[Any, ...] | None = None
    auth = None
    for _ in range(MAX_REDIRECTS + 1):
        target = _parsed(url)
        if _authority(target) != authority:  # a password is for the host that it was given for
            authority, auth = _authority(target), target.auth
        found = _Exchange(target, auth, access, deadline).get(url)
        if isinstance(found, bytes):
            return found
        url = _joined(url, found)
    raise ItemError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise ItemError(f"{shown(url)} leads to no address") from None


def _parsed(url: str) -> Url:
    try:
        target = parse_url(url)
    except HTTPError:
        raise ItemError(f"{shown(url)} is no address") from None
    if target.scheme not in _PORTS or not target.host:
        raise ItemError(f"{shown(url)}: only http and https are loaded")
    return target


def _authority(target: Url) -> tuple[Any, ...]:
    assert target.scheme is not None
    return target.scheme, target.host, target.port or _PORTS[target.scheme]


class _Exchange:
    """One request and its answer."""

    def __init__(self, target: Url, auth: str | None, access: Access, deadline: float) -> None:
        self.target, self.access, self.deadline = target, access, deadline
        self.scheme, host, self.port = _authority(target)
        self.host = host.strip("[]")
        agent = f"svd_batch/{svd_batch.__version__}"
        self.headers = {"User-Agent": agent, "Accept": "image/*,*/*;q=0.1", "Accept-Encoding": "identity"}
        if auth:
            self.headers |= make_headers(basic_auth=unquote(auth))

    def get(self, url: str) -> bytes | str:
        """Return the body, or where a redirect leads."""
        line = self._connect(url)
        connection = _connection(self.scheme, self.host, self.port, line, self._left())
        # Shuts the line down under a server that sends a byte now and then, which a socket's own timeout never ends.
        watch = line.dup()
        timer = threading.Timer(self._left(), _shut, [watch])
        timer.daemon = True
        timer.start()
        try:
            connection.request("GET", self.target.request_uri, headers=self.headers, preload_content=False)
            return self._answer(url, connection.getresponse())
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            raise ItemError(f"{shown(url)}: {self._late() or f'{type(error).__name__}: {error}'}") from None
        finally:
            timer.cancel()
            connection.close()
            watch.close()

    def _answer(self, url: str, response: urllib3.BaseHTTPResponse) -> bytes | str:
        location = response.headers.get("Location")
        if response.status in _REDIRECTS and location:
            return location
        if response.status != 200:
            raise ItemError(f"{shown(url)} answered {response.status}")
        limit = self.access.max_bytes
        length = response.headers.get("Content-Length", "")
        data = bytearray()
        while not (length.isdecimal() and int(length[:20]) > limit) and len(data) <= limit:
            chunk = response.read(CHUNK_BYTES)
            if late := self._late():  # also where the line was shut down, which looks like an end
                raise ItemError(f"{shown(url)}: {late}")
            if not chunk:
                return bytes(data)
            data += chunk
        raise ItemError(f"{shown(url)}: the file is larger than {limit >> 20} MiB")

    def _connect(self, url: str) -> socket.socket:
        """Return a connection to one of the host's addresses, all of them checked."""
        problem: OSError | None = None
        for address in self._addresses(url):
            try:
                return socket.create_connection((address, self.port), timeout=self._left())
            except OSError as error:
                problem = error
        raise ItemError(f"{shown(url)}: {self._late() or f'no connection to {self.host}: {problem}'}")

    def _addresses(self, url: str) -> list[str]:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise ItemError(f"{shown(url)}: the host {self.host} is not known") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        exempt = {self.host.lower(), f"{self.host.lower()}:{self.port}", f"[{self.host.lower()}]:{self.port}"}
        if exempt.isdisjoint(self.access.allowed_hosts):
            for address in addresses:
                if not is_public(address):
                    raise ItemError(
                        f"{shown(url)}: the host {self.host} has the address {address}, which is not public; "
                        "allowed_hosts may name the host"
                    )
        return addresses

    def _left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.001)

    def _late(self) -> str:
        if time.monotonic() < self.deadline:
            return ""
        return f"took longer than url_timeout_s={self.access.url_timeout_s:g}"


def is_public(address: str) -> bool:
    """Return whether everybody can reach an IP address; for an IPv4 address inside an IPv6 one, whether that.

    Source: the IANA special-purpose registries, as Python's ipaddress has them.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local)


def _connection(scheme: str, host: str, port: int, line: socket.socket, timeout: float) -> HTTPConnection:
    """Return a connection of urllib3's that speaks over `line`; certificates are checked against the host's name."""
    if scheme == "http":
        return _Http(line, host, port=port, timeout=timeout)
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())  # beside the system's own, which some Pythons don't find
    return _Https(line, host, port=port, timeout=timeout, ssl_context=context)


class _Http(HTTPConnection):
    def __init__(self, line: socket.socket, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._line = line

    def _new_conn(self) -> socket.socket:  # no second look-up of the name: it might have another answer by now
        return self._line


class _Https(HTTPSConnection):
    def __init__(self, line: socket.socket, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._line = line

    def _new_conn(self) -> socket.socket:
        return self._line


def _shut(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
