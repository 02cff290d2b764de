"""A small Hugging Face hub on loopback: repository listing, files with etags and ranges, and a cut on demand."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "5f0f3d6c0a4e4d1b8b5f7a9d2c3e4f5a6b7c8d9e"
_LFS_FROM = 1 << 16  # larger files have the hash of their content as etag, as on the real hub


@dataclass
class Hub:
    """One repository.

    cut: path -> bytes after which its first GET is cut.  stall: the same, but it falls silent until ``release``.
    log: (method, path, Range) of each request.
    """

    repo: str
    files: dict[str, bytes]
    url: str = ""
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    release: threading.Event = field(default_factory=threading.Event)
    log: list[tuple[str, str, str | None]] = field(default_factory=list)

    def gets(self, path: str) -> list[str | None]:
        """Ranges of the GET requests for one file."""
        return [ranged for method, asked, ranged in self.log if method == "GET" and asked.endswith(f"/{path}")]

    def listing(self) -> dict[str, Any]:
        """The answer of the models API."""
        return {"id": self.repo, "sha": COMMIT, "siblings": [self._sibling(path) for path in self.files]}

    def _sibling(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        row: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}  # noqa: S324
        if len(data) >= _LFS_FROM:
            row["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
        return row

    def etag(self, path: str) -> str:
        """The etag of one file."""
        row = self._sibling(path)
        return str(row["lfs"]["sha256"] if "lfs" in row else row["blobId"])


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        hub.log.append((self.command, path, self.headers.get("Range")))
        if path.startswith(f"/api/models/{hub.repo}"):
            self._send(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"}, body=body)
            return
        name = path.removeprefix(f"/{hub.repo}/resolve/").partition("/")[2]
        if not path.startswith(f"/{hub.repo}/resolve/") or name not in hub.files:
            code = "EntryNotFound" if path.startswith(f"/{hub.repo}/") else "RepoNotFound"
            self._send(404, b"{}", {"X-Error-Code": code}, body=body)
            return
        self._file(name, body=body)

    def _file(self, name: str, *, body: bool) -> None:
        data, status = self.hub.files[name], 200
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.hub.etag(name)}"', "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        if body and name in self.hub.stall:
            self._send(status, data, headers, body=True, cut=self.hub.stall.pop(name), wait=self.hub.release)
        else:
            self._send(status, data, headers, body=body, cut=self.hub.cut.pop(name, None) if body else None)

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str],
        *,
        body: bool,
        cut: int | None = None,
        wait: threading.Event | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data if cut is None else data[:cut])
        if wait:
            wait.wait()
        if cut is not None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent when a client that was killed drops its connection."""


@contextmanager
def fake_hub(repo: str, files: dict[str, bytes]) -> Iterator[Hub]:
    """Serve one repository on a free loopback port until the block ends."""
    hub = Hub(repo=repo, files=files)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
