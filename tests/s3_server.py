"""A real S3 server on loopback, in a process of its own, that breaks as it is told to: `python s3_server.py PORT`.

moto's server behind a layer that counts requests and spoils some. The layer is told by a POST to /_faults what it has
to do from then on, and tells on a GET of /_requests what it has been asked for.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

Start = Callable[..., Any]

_XML = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
_ANSWERS = {
    "InternalError": ("500 Internal Server Error", "We encountered an internal error. Please try again."),
    "SlowDown": ("503 Slow Down", "Please reduce your request rate."),
    "ExpiredToken": ("400 Bad Request", "The provided token has expired."),
    "AccessDenied": ("403 Forbidden", "Access Denied"),
}


class Faulty:
    """A WSGI application that passes requests on, but for those that a rule names.

    A rule: `method` and `path` (regular expressions), `kind` (one of _ANSWERS, "slow", or "lost": done, and then
    answered with an error), `every` (each n-th matching request), `count` (how many at most; none is all).
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._rules: list[dict[str, Any]] = []
        self._requests: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/_faults":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            with self._lock:
                self._rules = [{**rule, "seen": 0, "hit": 0} for rule in json.loads(body)]
            return _answer(start, "200 OK", "")
        if path == "/_requests":
            with self._lock:
                return _answer(start, "200 OK", json.dumps({"requests": self._requests, "rules": self._rules}))
        copies = " copy" if "HTTP_X_AMZ_COPY_SOURCE" in environ else ""
        with self._lock:
            self._requests.append(f"{environ['REQUEST_METHOD']} {path}{copies}")
            kind = self._fault(environ["REQUEST_METHOD"], path)
        if kind == "slow":
            time.sleep(1)
        elif kind == "lost":
            list(self._application(environ, lambda *_, **__: None))
            return _refuse(start, "InternalError")
        elif kind:
            body = _refuse(start, kind)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else body
        return self._application(environ, start)

    def _fault(self, method: str, path: str) -> str | None:
        for rule in self._rules:
            if not re.fullmatch(rule.get("method", ".*"), method) or not re.search(rule.get("path", ""), path):
                continue
            rule["seen"] += 1
            if rule["seen"] % rule.get("every", 1) == 0 and rule["hit"] < rule.get("count", 10**9):
                rule["hit"] += 1
                return str(rule["kind"])
        return None


def _refuse(start: Start, code: str) -> Iterable[bytes]:
    status, message = _ANSWERS[code]
    return _answer(start, status, _XML.format(code=code, message=message), "application/xml")


def _answer(start: Start, status: str, text: str, kind: str = "application/json") -> Iterable[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(text.encode())))])
    return [text.encode()]


def main(port: int) -> None:
    """Serve until the process is ended."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    application = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", port, Faulty(application), threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
