"""A web server on loopback whose answers a test chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each path as the test says."""

    answers: dict[str, Answer]
    seen: list[tuple[str, dict[str, str]]]
    bodies: list[bytes]
    """What came by POST."""

    def do_GET(self) -> None:
        self.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.answers.get(self.path.split("?")[0], gives(b"", 404))(self)

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class Web:
    """A running server."""

    def __init__(self, port: int, handler: type[Handler]) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"
        self.answers, self.seen, self.bodies = handler.answers, handler.seen, handler.bodies


@contextmanager
def web(**answers: Answer) -> Iterator[Web]:
    """Yield a server that answers `/name` for each keyword."""
    own = {"answers": {f"/{k}": v for k, v in answers.items()}, "seen": [], "bodies": []}
    handler = type("Chosen", (Handler,), own)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Web(server.server_address[1], handler)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def gives(data: bytes, status: int = 200, **headers: str) -> Answer:
    """Return what answers with some bytes."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        sent = {"Content-Length": str(len(data)), **{k.replace("_", "-"): v for k, v in headers.items()}}
        for name, value in sent.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def leads(location: str, status: int = 302) -> Answer:
    """Return what redirects."""
    return gives(b"", status, Location=location)


def drips(head: bytes = b"HTTP/1.0 200 OK\r\n\r\n", seconds: float = 10) -> Answer:
    """Return what sends a head and then a byte now and then."""

    def answer(handler: Handler) -> None:
        end = time.monotonic() + seconds
        try:
            handler.wfile.write(head)
            while time.monotonic() < end:
                handler.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            pass  # the reader has gone
        handler.close_connection = True

    return answer


def pours(handler: Handler) -> None:
    """Answer without an end."""
    try:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            handler.wfile.write(bytes(2**16))
    except OSError:
        handler.close_connection = True
