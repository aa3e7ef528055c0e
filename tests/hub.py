"""A model hub on loopback that speaks enough of the hub's protocol to serve one checkpoint, or to refuse it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPO, COMMIT = "someone/tiny-svd", "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub serves, and what it was asked for."""

    folder: Path
    refusal: tuple[int, str] | None = None
    """(status, X-Error-Code) with which every request is answered, where given."""
    url: str = ""
    downloads: list[str] = field(default_factory=list)

    def environment(self, home: Path) -> dict[str, str]:
        """Return what makes the hub's client ask this hub and keep its files in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve the hub on loopback for as long as the context is open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if hub.refusal is not None:
                self.answer(hub.refusal[0], b"", X_Error_Code=hub.refusal[1], X_Error_Message="refused")
            elif path.startswith(f"/api/models/{REPO}"):
                files = {str(p.relative_to(hub.folder)): p for p in sorted(hub.folder.rglob("*")) if p.is_file()}
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": p.stat().st_size,
                        "oid": hashlib.sha1(p.read_bytes()).hexdigest(),
                    }
                    for name, p in files.items()
                ]
                info = {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                body = json.dumps(tree if "/tree/" in path else info).encode()
                self.answer(200, body, Content_Type="application/json")
            elif path.startswith(f"/{REPO}/resolve/"):
                name = path.split("/", 5)[5]
                data = (hub.folder / name).read_bytes()
                if self.command == "GET":
                    hub.downloads.append(name)
                self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)
            else:
                self.answer(404, b"")

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
