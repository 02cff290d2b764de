"""The operator's port: keys and evidence over HTTP, public parts only. Loopback, or whoever holds the token.

What changes something is a POST with ``x-pcc-admin: 1``, which no page in a browser can send across origins, and
the Host must be loopback, so that no name of somebody else's leads here.
"""

import asyncio
import contextlib
import hmac
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hybrid.wire.codec import decode_directory_reply
from hybrid.wire.constants import CLOCK_TOLERANCE_S, KEY_ID_BYTES
from hybrid.wire.directory import Directory
from hybrid.wire.errors import ErrorCode, Malformed
from hybrid.wire.evidence import Bundle

from . import errors
from .config import Settings, is_loopback, split_address
from .errors import CONFIG_EXIT, StartFailure
from .link import Operation
from .publication import Publication
from .upstream import Upstream

MARK = "x-pcc-admin"
MIN_TOKEN_CHARS = 22  # 128 bits in base64
_STATUS = {ErrorCode.STALE_KEY: 404, ErrorCode.LIMIT: 429, ErrorCode.BUSY: 503}
_REFUSED, _UNAUTHENTICATED, _NOT_READY = 403, 401, 503

Handler = Callable[[Request], Awaitable[Response]]


class Admin:
    """The handlers. They know what the gateway knows: what is published, and how to ask the worker."""

    def __init__(self, worker: Upstream, token: str = "") -> None:
        self._worker = worker
        self._token = token

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/keys", self._guarded(self.keys), methods=["GET"]),
            Route("/keys/rotate", self._guarded(self.rotate), methods=["POST"]),
            Route("/keys/revoke", self._guarded(self.revoke), methods=["POST"]),
            Route("/evidence", self._guarded(self.evidence), methods=["GET"]),
        ]
        return Starlette(routes=routes)

    def _guarded(self, handler: Handler) -> Handler:
        async def wrapped(request: Request) -> Response:
            if (status := self._refusal(request)) is not None:
                return _told(status, "REFUSED")
            if self._worker.publication is None:
                return _told(_NOT_READY, "BUSY")
            try:
                return await handler(request)
            except Exception as error:  # noqa: BLE001 - the table in errors.py ends every one of them
                code = errors.refusal(error).code
                return _told(_STATUS.get(code, 400 if code is ErrorCode.MALFORMED else 500), code.value)

        return wrapped

    def _refusal(self, request: Request) -> int | None:
        if self._token:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return _UNAUTHENTICATED
        elif not is_loopback(_host(request)):
            return _REFUSED
        if request.method == "POST" and request.headers.get(MARK) != "1":
            return _REFUSED
        return None

    # --- handlers ----------------------------------------------------------------------------------

    async def keys(self, _request: Request) -> Response:
        """GET /keys: the epoch keys that open requests, and which of them the newest bundle lists."""
        return JSONResponse(describe_keys(self._published()))

    async def rotate(self, _request: Request) -> Response:
        """POST /keys/rotate: new keys of this epoch and the next; answered when they are published."""
        await self._worker.call(Operation.ROTATE)
        return JSONResponse(describe_keys(self._published()))

    async def revoke(self, request: Request) -> Response:
        """POST /keys/revoke?key=HEX: destroy one key at once."""
        await self._worker.call(Operation.REVOKE, _key_id(request.query_params.get("key", "")))
        return JSONResponse(describe_keys(self._published()))

    async def evidence(self, _request: Request) -> Response:
        """GET /evidence: the newest bundle's bytes."""
        return Response(_bundle(self._published()).raw, media_type="application/octet-stream")

    def _published(self) -> Publication:
        if self._worker.publication is None:
            raise errors.Busy
        return self._worker.publication


def _told(status: int, code: str) -> Response:
    return JSONResponse({"code": code}, status_code=status)


def _host(request: Request) -> str:
    host = request.headers.get("host", "")
    return host.removeprefix("[").partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _key_id(text: str) -> bytes:
    """Read a key's id. Raises Malformed for anything but 32 hexadecimal digits."""
    if len(text) != 2 * KEY_ID_BYTES or not all(char in "0123456789abcdef" for char in text):
        raise Malformed("a key is named by 32 hexadecimal digits")
    return bytes.fromhex(text)


def _bundle(publication: Publication) -> Bundle:
    reply = decode_directory_reply(publication.reply)
    return Directory.decode(reply.directory).nodes[0].bundle


def describe_keys(publication: Publication) -> dict[str, Any]:
    """Return what is public about the keys. Times are unix seconds; ``listed``: in the newest bundle."""
    bundle = _bundle(publication)
    listed = {key.key_id for key in bundle.statement.keys}
    epoch_s = bundle.statement.keys[0].epoch_s
    rows = {row.ek_id: row for row in publication.accepted}
    return {
        "node_id": bundle.statement.identity.node_id.hex(),
        "bundle_id": bundle.id.hex(),
        "epoch_s": epoch_s,
        "keys": [
            {
                "id": ek_id.hex(),
                "epoch": (row.opens + CLOCK_TOLERANCE_S) // epoch_s,
                "opens": row.opens,
                "closes": row.closes,
                "listed": ek_id in listed,
            }
            for ek_id, row in rows.items()
        ],
    }


# --- the server --------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: they are the launcher's to answer."""
        yield


def read_token(path: str) -> str:
    """Read the token's file; empty without one. Raises StartFailure with exit code 2."""
    if not path:
        return ""
    try:
        token, mode = Path(path).read_text("ascii").strip(), Path(path).stat().st_mode
    except (OSError, UnicodeDecodeError):
        raise StartFailure(f"cannot read --admin-token {path}", CONFIG_EXIT) from None
    if len(token) < MIN_TOKEN_CHARS:
        raise StartFailure(
            f"--admin-token {path} holds under {MIN_TOKEN_CHARS} characters; use random ones", CONFIG_EXIT
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StartFailure(f"--admin-token {path} can be read by others; run: chmod 600 {path}", CONFIG_EXIT)
    return token


class AdminPort:
    """A bound port. address: where it listens."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket, address: str) -> None:
        self._server = server
        self._listener = listener
        self.address = address

    def start(self) -> None:
        """Serve until the process ends. Needs a running loop."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))


def open_admin_port(settings: Settings, worker: Upstream) -> AdminPort:
    """Bind the admin port. Raises StartFailure."""
    token = read_token(settings.admin_token)
    host, port = split_address(settings.admin, "--admin")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise StartFailure(f"cannot listen on --admin {settings.admin}: {error.strerror}") from None
    far = not is_loopback(host)
    config = uvicorn.Config(
        Admin(worker, token).app(),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ssl_certfile=settings.tls_cert if far else None,
        ssl_keyfile=settings.tls_key if far else None,
    )
    bound = listener.getsockname()[1]
    return AdminPort(_Server(config), listener, f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}")
